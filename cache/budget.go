package cache

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A Shrunk says what Shrink did.
type Shrunk struct {
	Report
	Size int64 // bytes of the store afterwards
}

// Shrink makes the store smaller until it has at most size bytes of blobs and layers, as far as nothing
// is lost by it: first what a collection takes anyway, then the blobs of layers that are unpacked, the
// least recently used first. Such a blob is made again where the layer was built here, and fetched again
// where it was pulled. Names, containers and the build cache stay what they are.
func (s *Store) Shrink(ctx context.Context, size int64) (Shrunk, error) {
	out := Shrunk{}
	before, err := s.cutoff()
	if err != nil {
		return out, fmt.Errorf("shrinking the store: %w", err)
	}
	all, err := s.survey(ctx, surveyOptions{before: before})
	if err != nil {
		return out, fmt.Errorf("shrinking the store: %w", err)
	}
	partial, err := s.Content.Partial()
	if err != nil {
		return out, fmt.Errorf("shrinking the store: %w", err)
	}
	if out.Size = all.size() + partial; out.Size <= size {
		return out, nil
	}
	if out.Report, err = s.GC(ctx, GCOptions{}); err != nil { // which makes sure of the layers too: Sync
		return out, err
	}
	out.Size -= out.Bytes
	for _, obj := range all.spare(before) {
		if out.Size <= size {
			break
		}
		gone, err := s.expire(ctx, obj.Object, before)
		if err != nil {
			return out, fmt.Errorf("shrinking the store: %w", err)
		}
		if gone {
			out.Removed, out.Bytes, out.Size = append(out.Removed, obj.Object), out.Bytes+obj.Size, out.Size-obj.Size
		}
	}
	return out, nil
}

// size adds up everything.
func (v *survey) size() (sum int64) {
	for _, obj := range v.objects {
		sum += obj.Size
	}
	return sum
}

// spare returns the blobs of layers that are unpacked and that nobody has used since before, the least
// recently used first.
func (v *survey) spare(before time.Time) []object {
	unpacked := map[string]bool{}
	for diffID, blobs := range v.graph.compressed.blobs {
		if len(v.graph.layers[diffID]) == 0 {
			continue
		}
		for _, d := range blobs {
			unpacked[string(d)] = true
		}
		unpacked[string(diffID)] = true
	}
	var list []object
	for _, obj := range v.objects {
		if obj.Kind == KindBlob && unpacked[obj.ID] && v.live[obj.node()] && obj.used.Before(before) {
			list = append(list, obj)
		}
	}
	slices.SortStableFunc(list, func(a, b object) int { return a.used.Compare(b.used) })
	return list
}
