package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ResolveBlob returns the descriptor of a blob of which only the digest is known, without a
// media type. errdefs.ErrUnavailable when the registry does not tell the size.
func (r *Repository) ResolveBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	resp, err := r.read(ctx, r.request(http.MethodHead, "blobs/"+d.String()), capPull)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%s does not tell the size of %s: %w", r.host.name, d, errdefs.ErrUnavailable)
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: resp.ContentLength}, nil
}
