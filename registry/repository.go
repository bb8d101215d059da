package registry

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

var (
	_ content.Fetcher = (*Repository)(nil)
	_ content.Pusher  = (*Repository)(nil)

	errTODO = errors.New("not written yet")
)

// Resolve returns the descriptor of a tag ("latest") or a digest ("sha256:..."), without
// its platform. It asks with HEAD, which Docker Hub does not count as a pull.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errTODO
}

// Fetch implements content.Fetcher. A broken connection is opened again where it broke.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, errTODO
}

// Exists implements content.Pusher.
func (r *Repository) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	return false, errTODO
}

// Push implements content.Pusher. Manifests are stored under their digest; Tag names
// them. A broken upload goes on if src is an io.Seeker, or starts again if it has a
// Reopen method; else it fails.
func (r *Repository) Push(ctx context.Context, d ocispec.Descriptor, src io.Reader) error {
	return errTODO
}

// Tag stores the manifest d, whose bytes are manifest, under tag. What it refers to is there already.
func (r *Repository) Tag(ctx context.Context, d ocispec.Descriptor, tag string, manifest []byte) error {
	return errTODO
}

// Tags lists the tags of the repository in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) { return nil, errTODO }
