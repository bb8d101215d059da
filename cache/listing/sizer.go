package listing

import (
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
)

// A Sizer adds up layers, asking for each once.
type Sizer struct {
	store *cache.Store
	known map[digest.Digest]int64
	blobs bool // a layer was not unpacked
}

// NewSizer returns a Sizer of the layers of a store.
func NewSizer(store *cache.Store) *Sizer {
	return &Sizer{store: store, known: map[digest.Digest]int64{}}
}

// Image returns the size of an image, and whether that is what it has when all its layers are unpacked.
func (s *Sizer) Image(img content.Image) (sum int64, final bool) {
	s.blobs = false
	for i := range img.Manifest.Layers {
		sum += s.Layer(img, i)
	}
	return sum, !s.blobs
}

// Layer returns the size of an unpacked layer, or of its blob if it is not unpacked.
func (s *Sizer) Layer(img content.Image, i int) int64 {
	if i >= len(img.Config.RootFS.DiffIDs) {
		s.blobs = true
		return img.Manifest.Layers[i].Size
	}
	diffID := img.Config.RootFS.DiffIDs[i]
	if size, ok := s.known[diffID]; ok {
		return size
	}
	l, err := s.store.Layers.ByDiffID(diffID)
	if err != nil {
		s.blobs = true
		return img.Manifest.Layers[i].Size
	}
	s.known[diffID] = l.Size
	return l.Size
}
