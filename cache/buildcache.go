package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/result"
)

// A BuildRecord is a result of the build cache and what it weighs.
type BuildRecord struct {
	result.Record
	// Size counts the layers that no older record has, so that the sum over all records is what
	// they keep together.
	Size   int64
	Shared bool // an image or a container needs one of those layers too
}

// BuildRecords lists the build cache, the least recently used first.
func (s *Store) BuildRecords(ctx context.Context) ([]BuildRecord, error) {
	var list []BuildRecord
	all := map[digest.Digest]bool{}
	err := s.Results.Walk(ctx, func(r result.Record) error {
		list = append(list, BuildRecord{Record: r})
		all[r.Key] = true
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	// What is live without any of them; in a year's time, as recent use does not count here.
	others, err := s.survey(ctx, surveyOptions{dropped: all, before: time.Now().AddDate(1, 0, 0), sizeless: true})
	if err != nil {
		return nil, fmt.Errorf("measuring the build cache: %w", err)
	}
	slices.SortFunc(list, func(a, b BuildRecord) int { return a.Created.Compare(b.Created) })
	claimed := map[string]bool{}
	for i := range list {
		for _, id := range list[i].Layers {
			if claimed[id] {
				continue
			}
			claimed[id] = true
			size, err := s.Layers.Measure(ctx, id)
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
			list[i].Size += size
			list[i].Shared = list[i].Shared || others.live[node{KindLayer, id}]
		}
	}
	slices.SortFunc(list, func(a, b BuildRecord) int { return a.LastUsed.Compare(b.LastUsed) })
	return list, nil
}
