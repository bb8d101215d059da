package runner

import (
	"cmp"
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
)

// Manifests finds the manifests of containers' images, of each image once.
type Manifests struct {
	store *cache.Store
	known map[digest.Digest]*ocispec.Descriptor
}

// NewManifests returns one that knows none yet.
func NewManifests(store *cache.Store) *Manifests {
	return &Manifests{store: store, known: map[digest.Digest]*ocispec.Descriptor{}}
}

// Of returns the manifest's descriptor with the platform, or nil if the manifest is gone.
func (m *Manifests) Of(ctx context.Context, c *Container) *ocispec.Descriptor {
	d, ok := m.known[c.Manifest]
	if !ok {
		d = m.read(ctx, c.Manifest)
		m.known[c.Manifest] = d
	}
	return d
}

func (m *Manifests) read(ctx context.Context, name digest.Digest) *ocispec.Descriptor {
	info, err := m.store.Content.Stat(ctx, name)
	if err != nil {
		return nil
	}
	img, err := content.Resolve(ctx, m.store.Content, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: name, Size: info.Size}, content.Host())
	if err != nil {
		return nil
	}
	platform := img.Platform()
	return &ocispec.Descriptor{MediaType: cmp.Or(img.Manifest.MediaType, ocispec.MediaTypeImageManifest), Digest: name, Size: info.Size, Platform: &platform}
}
