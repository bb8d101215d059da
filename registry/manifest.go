package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ResolveData is Resolve for who has nothing of the image yet: the descriptor has the manifest in Data, so that Fetch
// need not ask for it. Docker Hub counts this as the pull that it is.
func (r *Repository) ResolveData(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	d, data, err := r.Manifest(ctx, tagOrDigest)
	d.Data = data
	return d, err
}

// Manifest returns the manifest of a tag or digest and its bytes, with one request. One that is not
// there is an errdefs.ErrNotFound.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error) {
	d, data, err := r.manifest(ctx, tagOrDigest)
	if (errdefs.IsDataLoss(err) || NoAnswer(err)) && r.Doubt() {
		return r.manifest(ctx, tagOrDigest)
	}
	return d, data, err
}

func (r *Repository) manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error) {
	q := r.request(http.MethodGet, "manifests/"+tagOrDigest)
	q.header = http.Header{"Accept": acceptManifests()}
	resp, body, err := r.client.document(ctx, maxManifest, func() (*http.Response, error) { return r.read(ctx, q, needed(tagOrDigest)) })
	if resp == nil {
		return ocispec.Descriptor{}, nil, err
	}
	if err == nil {
		body, err = decodeDocument(resp, body, maxManifest)
	}
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("reading manifest: %w", err)
	}
	d := ocispec.Descriptor{MediaType: mediaType(resp, body), Digest: digest.FromBytes(body), Size: int64(len(body))}
	if want := digest.Digest(tagOrDigest); want.Validate() == nil && want.Algorithm() != digest.SHA256 {
		d.Digest = want.Algorithm().FromBytes(body)
	}
	d, err = checkResolved(d, tagOrDigest)
	return d, body, err
}
