package build

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// layoutContext adds a context that is an image of an OCI layout: DIR, DIR:TAG or DIR@DIGEST.
func (r *run) layoutContext(attrs map[string]string, name, value string) error {
	dir, dgst, ok := strings.Cut(value, "@")
	if !ok {
		tag := ""
		if i := strings.LastIndex(value, ":"); i > strings.LastIndex(value, "/") {
			dir, tag = value[:i], value[i+1:]
		}
		d, err := layoutImage(dir, tag)
		if err != nil {
			return fmt.Errorf("context %s: %w", name, err)
		}
		dgst = d.String()
	}
	if err := checkDir(dir); err != nil {
		return fmt.Errorf("context %s: %w", name, err)
	}
	if r.env.OCILayouts == nil {
		r.env.OCILayouts = map[string]string{}
	}
	store := "layout" + strconv.Itoa(len(r.env.OCILayouts))
	r.env.OCILayouts[store] = dir
	attrs["context:"+name] = "oci-layout://" + store + "@" + dgst
	return nil
}

// layoutImage finds the image with a tag in the index of a layout; without a tag the one called
// latest, or the only one.
func layoutImage(dir, tag string) (digest.Digest, error) {
	index, err := content.ReadIndex(dir)
	if err != nil {
		return "", fmt.Errorf("OCI layout: %w", err)
	}
	want := tag
	if tag == "" {
		want = "latest"
	}
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] == want {
			return m.Digest, m.Digest.Validate()
		}
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0].Digest, index.Manifests[0].Digest.Validate()
	}
	return "", fmt.Errorf("OCI layout %s has no image %q: %w", dir, want, errdefs.ErrNotFound)
}
