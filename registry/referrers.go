package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	maxReferrerPages = 1000
	maxReferrers     = 1 << 18 // in all pages
)

// Referrers lists the manifests whose subject is the manifest d (distribution-spec v1.1, "Listing
// Referrers"), from the fallback tag where the registry has no such API.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	q := r.request(http.MethodGet, "referrers/"+d.String())
	q.header = http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	var all []ocispec.Descriptor
	var length int
	for page := 0; ; page++ {
		resp, body, err := r.client.document(ctx, maxManifest, func() (*http.Response, error) { return r.host.do(ctx, q) })
		if page == 0 && (errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err)) {
			return r.referrersByTag(ctx, d)
		}
		if err != nil {
			return nil, fmt.Errorf("listing referrers of %s: %w", d, err)
		}
		index, err := parseIndex(body)
		if err != nil {
			return nil, fmt.Errorf("listing referrers of %s: %w", d, err)
		}
		all = append(all, index.Manifests...)
		length += len(body)
		next, err := r.nextPage(ctx, resp)
		if err != nil || next == nil {
			return all, err
		}
		if page == maxReferrerPages || len(all) > maxReferrers || length > maxList {
			return nil, fmt.Errorf("listing referrers of %s: the registry's pages do not end: %w", d, errdefs.ErrUnavailable)
		}
		q.url = next
	}
}

func parseIndex(data []byte) (index ocispec.Index, err error) {
	if err := content.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("it is no index: %w: %w", errdefs.ErrUnavailable, err)
	}
	for _, d := range index.Manifests {
		if err := d.Digest.Validate(); err != nil {
			return index, fmt.Errorf("digest %q: %w: %w", printable(string(d.Digest)), errdefs.ErrInvalidArgument, err)
		}
	}
	return index, nil
}

// fallbackTag is where clients keep the referrers that a registry does not: distribution-spec v1.1,
// "Referrers Tag Schema".
func fallbackTag(d digest.Digest) string {
	algorithm, hex := string(d.Algorithm()), d.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + hex[:min(len(hex), 64)]
}

// referrersByTag asks no mirror, whose list may be older than what Refer adds to.
func (r *Repository) referrersByTag(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	own := *r
	own.mirrors = nil
	root, err := own.Resolve(ctx, fallbackTag(d))
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing referrers of %s: %w", d, err)
	}
	data, err := content.ReadAll(ctx, &own, root)
	if err != nil {
		return nil, fmt.Errorf("listing referrers of %s: %w", d, err)
	}
	index, err := parseIndex(data)
	return index.Manifests, err
}

// Refer makes sure that the manifest d, which the repository has, is listed by Referrers of its subject. Only
// registries without the API need that done. src has the manifest too.
func (r *Repository) Refer(ctx context.Context, src content.Fetcher, d ocispec.Descriptor) error {
	data, err := content.ReadAll(ctx, src, d)
	if err != nil {
		return err
	}
	var m struct {
		ArtifactType string              `json:"artifactType"`
		Annotations  map[string]string   `json:"annotations"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	if m.Subject == nil {
		return nil
	}
	list, err := r.Referrers(ctx, m.Subject.Digest)
	if err != nil || slices.ContainsFunc(list, func(other ocispec.Descriptor) bool { return other.Digest == d.Digest }) {
		return err
	}
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	list = append(list, ocispec.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	})
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		return err
	}
	root := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index))}
	if err := r.Push(ctx, root, bytes.NewReader(index)); err != nil {
		return err
	}
	return r.Tag(ctx, root, fallbackTag(m.Subject.Digest), index)
}
