package library

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/listing"
)

// ImageUsage is an image and what of its size is its alone.
type ImageUsage struct {
	listing.Image
	cache.Part
	Containers int
}

// Usage returns every image with its part of the store, the newest first.
func (l *Library) Usage(ctx context.Context) ([]ImageUsage, error) {
	all, err := l.All(ctx)
	if err != nil {
		return nil, err
	}
	users := map[digest.Digest]int{}
	if l.Containers != nil {
		containers, err := l.Containers(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range containers {
			users[c.Image]++
		}
	}
	resolved := make([]content.Image, len(all))
	list := make([]ImageUsage, len(all))
	for i, img := range all {
		list[i] = ImageUsage{Image: img, Containers: users[img.ID]}
		if r, err := l.Store.Resolve(ctx, img.Records[0].Target); err == nil { // else nothing of it is here
			resolved[i] = r
		}
	}
	for i, part := range l.Store.Parts(resolved) {
		list[i].Part = part
	}
	return list, nil
}
