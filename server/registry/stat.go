package registry

import (
	"context"
	"fmt"
)

// Stat counts what a registry has.
type Stat struct {
	Repositories int   `json:"repositories"` // with manifests
	Tags         int   `json:"tags"`
	Manifests    int   `json:"manifests"`
	Links        int   `json:"links"` // blobs of repositories, each counted in every one
	Blobs        int   `json:"blobs"` // each counted once
	Bytes        int64 `json:"bytes"` // of these
}

// ReadStat counts what the registry in o.Root or o.Bucket has, without reading blobs.
// errdefs.ErrNotFound when there is none.
func ReadStat(ctx context.Context, o Options) (Stat, error) {
	o.Existing = true
	s, err := openStorage(o)
	if err != nil {
		return Stat{}, err
	}
	var st Stat
	for last, more := "", true; more; {
		var names []string
		if names, more, err = s.Repositories(ctx, last, catalogPage); err != nil {
			return st, err
		}
		for _, repo := range names {
			last = repo
			tags, err := s.TagInfos(ctx, repo)
			if ignoreNotFound(err) != nil {
				return st, fmt.Errorf("repository %s: %w", repo, err)
			}
			st.Repositories++
			st.Tags += len(tags)
		}
	}
	// A collection that removes nothing counts the rest.
	r, err := s.Collect(ctx, GCOptions{DryRun: true})
	if err != nil {
		return st, err
	}
	st.Manifests, st.Links = r.Manifests, r.Blobs
	st.Blobs, st.Bytes, err = s.(sizer).dataSize(ctx)
	return st, err
}

// sizer is a storage that knows how much it has. Both do.
type sizer interface {
	dataSize(ctx context.Context) (blobs int, bytes int64, err error)
}
