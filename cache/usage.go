package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/teu-dev/teu/cache/result"
)

// A KindUsage sums up the objects of one kind.
type KindUsage struct {
	Count       int
	Bytes       int64
	Reclaimable int64 // bytes GC would free
}

// Usage says where the bytes of the store are. Results counts the records; their bytes are those of
// the layers and blobs they need, Reclaimable what only they keep, about.
type Usage struct {
	Blobs, Layers, Snapshots, Results KindUsage
}

// DiskUsage sums up the store.
func (s *Store) DiskUsage(ctx context.Context) (Usage, error) {
	// Next year: that something was used lately does not make it less reclaimable.
	all, err := s.survey(ctx, nil, time.Now().AddDate(1, 0, 0))
	if err != nil {
		return Usage{}, fmt.Errorf("measuring the store: %w", err)
	}
	var u Usage
	kinds := map[Kind]*KindUsage{KindBlob: &u.Blobs, KindLayer: &u.Layers, KindSnapshot: &u.Snapshots}
	for _, obj := range all.objects {
		k := kinds[obj.Kind]
		k.Count++
		k.Bytes += obj.Size
		if !all.live[obj.node()] {
			k.Reclaimable += obj.Size
		}
	}
	err = s.Results.Walk(ctx, func(r result.Record) error {
		u.Results.Count++
		u.Results.Bytes += r.Size
		u.Results.Reclaimable += r.Size
		return nil
	})
	return u, err
}
