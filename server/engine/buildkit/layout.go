package buildkit

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// layout returns a directory with the image ref, NAME@DIGEST, of an OCI layout that the client knows as store. It
// is brought when it is first asked for; of an index only what is for p comes.
func (c *caller) layout(ctx context.Context, store, ref string, p ocispec.Platform) (string, error) {
	_, text, _ := strings.Cut(ref, "@")
	dgst, err := digest.Parse(text)
	if err != nil {
		return "", fmt.Errorf("image %q of the OCI layout %s needs a digest: %w", ref, store, errdefs.ErrInvalidArgument)
	}
	c.bringing.Lock()
	defer c.bringing.Unlock()
	key := store + "@" + dgst.String() + " " + platforms.FormatAll(p)
	if dir, ok := c.layouts[key]; ok {
		return dir, nil
	}
	s, err := c.of(ctx, "")
	if err != nil {
		return "", err
	}
	from := newClientStore(s, "oci:"+store)
	root, err := from.describe(ctx, dgst)
	if err != nil {
		return "", fmt.Errorf("OCI layout %s of the client: %w", store, err)
	}
	dir, release, err := c.builder.Mirror("", "", func(dir string) error {
		to, err := content.Open(dir)
		if err != nil {
			return err
		}
		return content.Copy(ctx, to, from, root, content.CopyOptions{Platforms: []ocispec.Platform{p}})
	})
	if err != nil {
		return "", err
	}
	c.keep(release)
	if c.layouts == nil {
		c.layouts = map[string]string{}
	}
	c.layouts[key] = dir
	return dir, nil
}
