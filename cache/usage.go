package cache

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/teu-dev/teu/cache/content"
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

	// Images is what images keep: layers and blobs, whoever else keeps them too, each once, and what
	// downloads that broke have left. Unused is the part of it that no container needs, with what nothing
	// keeps and the next collection takes.
	Images, Unused int64
}

// DiskUsage sums up the store.
func (s *Store) DiskUsage(ctx context.Context) (Usage, error) {
	// Next year: that something was used lately does not make it less reclaimable.
	all, err := s.survey(ctx, surveyOptions{before: time.Now().AddDate(1, 0, 0)})
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
	if err := s.imageUsage(ctx, &u, &all); err != nil {
		return Usage{}, fmt.Errorf("measuring the store: %w", err)
	}
	err = s.Results.Walk(ctx, func(r result.Record) error {
		u.Results.Count++
		u.Results.Bytes += r.Size
		u.Results.Reclaimable += r.Size
		return nil
	})
	return u, err
}

// imageUsage tells apart what names, containers and only the build cache keep.
func (s *Store) imageUsage(ctx context.Context, u *Usage, all *survey) error {
	images, err := s.Images.All(ctx)
	if err != nil {
		return err
	}
	var names, leased []node
	for _, img := range images {
		names = append(names, blobNode(img.Target.Digest))
	}
	leases, err := s.leases()
	if err != nil {
		return err
	}
	for _, l := range leases {
		leased = append(leased, l.nodes()...)
	}
	named, err := mark(names, all.graph.refs)
	if err != nil {
		return err
	}
	used, err := mark(leased, all.graph.refs)
	if err != nil {
		return err
	}
	kept := maps.Clone(named)
	maps.Copy(kept, used)
	for _, obj := range all.objects {
		n := obj.node()
		if kept[n] || !all.live[n] {
			u.Images += obj.Size
			if !used[n] {
				u.Unused += obj.Size
			}
		}
	}
	partial, err := s.Content.Partial()
	u.Images += partial
	u.Unused += partial
	return err
}

// A Part is what one image has of the store's bytes.
type Part struct {
	Shared, Unique int64 // bytes of layers that other images have too, or not
}

// Parts tells for each of images which of its layers others of them have too.
func (s *Store) Parts(images []content.Image) []Part {
	users := map[string]int{}
	sizes := map[string]int64{}
	distinct := make([][]string, len(images))
	for i, img := range images {
		seen := map[string]bool{}
		for _, diffID := range img.Config.RootFS.DiffIDs {
			id := string(diffID)
			if seen[id] {
				continue
			}
			seen[id] = true
			users[id]++
			distinct[i] = append(distinct[i], id)
			if _, known := sizes[id]; !known {
				if l, err := s.Layers.ByDiffID(diffID); err == nil {
					sizes[id] = l.Size
				}
			}
		}
	}
	parts := make([]Part, len(images))
	for i, ids := range distinct {
		for _, id := range ids {
			if users[id] > 1 {
				parts[i].Shared += sizes[id]
			} else {
				parts[i].Unique += sizes[id]
			}
		}
	}
	return parts
}
