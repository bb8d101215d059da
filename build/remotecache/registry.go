package remotecache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// A Repository is what a place in a registry is made of.
type Repository interface {
	content.Fetcher
	content.Pusher
	// Manifest returns the manifest of a tag, or an errdefs.ErrNotFound.
	Manifest(ctx context.Context, tag string) (ocispec.Descriptor, []byte, error)
	// Tag stores a manifest under a tag.
	Tag(ctx context.Context, d ocispec.Descriptor, tag string, manifest []byte) error
}

// InRegistry is the place of a reference: its repository, and tags that begin as its tag.
func InRegistry(r Repository, name, tag string) Place {
	const longest = 60 // a tag has 128 characters at most, 65 of which are ours
	prefix := tag
	if len(prefix) > longest {
		sum := sha256.Sum256([]byte(tag))
		prefix = hex.EncodeToString(sum[:16])
	}
	return &inRegistry{Repository: r, name: name + ":" + tag, prefix: prefix}
}

type inRegistry struct {
	Repository
	name, prefix string
}

func (r *inRegistry) String() string { return r.name }

func (r *inRegistry) tag(name string) string { return r.prefix + "-" + name }

// Get implements Place.
func (r *inRegistry) Get(ctx context.Context, name string) ([]byte, error) {
	_, data, err := r.Manifest(ctx, r.tag(name))
	return data, err
}

// Put implements Place.
func (r *inRegistry) Put(ctx context.Context, name string, d ocispec.Descriptor, manifest []byte) error {
	return r.Tag(ctx, d, r.tag(name), manifest)
}

// Inside returns the entries that the images of name, one for each platform, have of their own build;
// see Embed.
func Inside(r content.Fetcher, name string, images ...content.Image) (Place, error) {
	all := map[string][]byte{}
	for _, img := range images {
		entries, err := extract(img.Manifest, img.RawConfig)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, entries)
	}
	return &inside{Fetcher: r, name: name, entries: all}, nil
}

type inside struct {
	content.Fetcher
	name    string
	entries map[string][]byte
}

func (i *inside) String() string { return strings.TrimPrefix(i.name, "docker.io/library/") }

// Get implements Place.
func (i *inside) Get(_ context.Context, name string) ([]byte, error) {
	data, ok := i.entries[name]
	if !ok {
		return nil, notFound(name)
	}
	return data, nil
}

// Put implements Place; nobody writes into an image.
func (i *inside) Put(context.Context, string, ocispec.Descriptor, []byte) error { return errReadOnly }

// Push implements Place; see Put.
func (i *inside) Push(context.Context, ocispec.Descriptor, io.Reader) error { return errReadOnly }

// Exists implements Place.
func (i *inside) Exists(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }
