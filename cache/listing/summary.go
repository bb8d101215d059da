package listing

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/statefile"
)

// summary is what listings show of an image beside its names.
type summary struct {
	ID      digest.Digest
	Created time.Time
	Size    int64
	Labels  map[string]string

	final bool // it will never be another one for the same target
}

// summaries are those of a store by target, kept in one file: to list thousands of images no manifest, config
// and layer record need be read. They say nothing about what is there, only what it is.
type summaries struct {
	images map[digest.Digest]summary
	added  int
}

// Forget drops what listings remember of images, which have become others although their names stand for the same.
func Forget(store *cache.Store) error {
	err := os.Remove(summariesPath(store))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// summariesFrom is how many images make the file worth its while.
const summariesFrom = 50

func (s *summaries) add(target digest.Digest, img summary) {
	s.images[target] = img
	if img.final {
		s.added++
	}
}

func summariesPath(store *cache.Store) string {
	return filepath.Join(store.Root(), "images", "summaries")
}

// readSummaries returns those of the file, for about n images.
func readSummaries(store *cache.Store, n int) *summaries {
	s := &summaries{images: make(map[digest.Digest]summary, n)}
	u, err := statefile.Unpack(summariesPath(store))
	if err != nil {
		return s
	}
	for u.More() {
		target := digest.Digest(u.String())
		img := summary{ID: digest.Digest(u.String()), Created: time.Unix(u.Int(), u.Int()).UTC(), Size: u.Int(), final: true}
		if n := u.Int(); n > 0 {
			img.Labels = map[string]string{}
			for range n {
				if !u.More() {
					break
				}
				key := u.String()
				img.Labels[key] = u.String()
			}
		}
		s.images[target] = img
	}
	if u.Err() != nil {
		return &summaries{images: map[digest.Digest]summary{}}
	}
	return s
}

// write keeps those of the images there are, if many of them are new. Whoever writes at the same
// time may lose the other's, which then are made again.
func (s *summaries) write(store *cache.Store, records []image.Image) {
	if len(records) < summariesFrom || s.added*10 < len(records) {
		return
	}
	var p statefile.Packer
	written := map[digest.Digest]bool{}
	for _, r := range records {
		target := r.Target.Digest
		img, ok := s.images[target]
		if !ok || !img.final || written[target] {
			continue
		}
		written[target] = true
		p.String(string(target))
		p.String(string(img.ID))
		p.Int(img.Created.Unix())
		p.Int(int64(img.Created.Nanosecond()))
		p.Int(img.Size)
		p.Int(int64(len(img.Labels)))
		for _, key := range slices.Sorted(maps.Keys(img.Labels)) {
			p.String(key)
			p.String(img.Labels[key])
		}
	}
	_ = p.Write(summariesPath(store)) // a store that cannot be written is only slower
}
