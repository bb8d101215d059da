package registry

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// GCOptions say what a collection of garbage may take. The zero value is ready to use.
//
// Garbage are blobs that no manifest of their repository refers to, and with Untagged also
// manifests that nothing leads to. Collections run beside pushes; no request waits for one
// longer than a moment.
type GCOptions struct {
	// Grace protects what was pushed, mounted, or found by HEAD or a manifest that was
	// pushed, for this long: a client builds on it, and its manifest is yet to come.
	// 0 means DefaultGrace; at least a second.
	Grace time.Duration
	// Untagged also takes manifests that have neither a tag nor an index nor a subject
	// that is kept. Without it, what was pushed by digest stays.
	Untagged bool
	// DryRun only tells what would go.
	DryRun bool
	// Rate is how many files may be looked at in a second; a manifest, which is read,
	// counts for five and what is removed for ten. 0 means as fast as it goes.
	Rate int

	rules Rules
}

// untagged reports whether manifests of a repository go with their last tag.
func (o GCOptions) untagged(repo string) bool { return o.Untagged || o.rules.untagged(repo) }

// DefaultGrace is longer than any push between the first blob and the manifest should take.
const DefaultGrace = time.Hour

// MinGrace is the shortest grace: what touchAfter and clocks of different servers leave room for.
const MinGrace = time.Second

// GCReport tells what a collection found. After a dry run, what was removed is what would
// have been.
type GCReport struct {
	Repositories int `json:"repositories"` // that were looked at
	Unchanged    int `json:"unchanged"`    // repositories without garbage that did not change since
	Manifests    int `json:"manifests"`    // manifests read
	Blobs        int `json:"blobs"`        // blobs of repositories
	Fresh        int `json:"fresh"`        // garbage within its grace, or taken into use meanwhile
	Busy         int `json:"busy"`         // repositories left for the next time: too many pushes

	RemovedTags      int   `json:"removedTags"` // by the rules
	RemovedManifests int   `json:"removedManifests"`
	RemovedLinks     int   `json:"removedLinks"` // blobs removed from a repository
	RemovedBlobs     int   `json:"removedBlobs"` // of those, blobs that were in no other
	Bytes            int64 `json:"bytes"`        // size of RemovedBlobs
}

// GC collects garbage. errdefs.ErrUnavailable: a collection of the same directory runs, in
// this process or another. An error leaves everything usable; what it is about is kept.
func (g *Registry) GC(ctx context.Context, o GCOptions) (GCReport, error) {
	rules, err := readRules(ctx, g.store)
	if err != nil {
		return GCReport{}, fmt.Errorf("collecting garbage: %w", err)
	}
	tags, err := retain(ctx, g.store, rules, o.DryRun)
	if err != nil {
		return GCReport{RemovedTags: len(tags)}, fmt.Errorf("collecting garbage: %w", err)
	}
	o.rules = rules
	r, err := g.store.Collect(ctx, o)
	r.RemovedTags = len(tags)
	if err != nil {
		return r, fmt.Errorf("collecting garbage: %w", err)
	}
	return r, nil
}

// GC collects the garbage of the registry in o.Root or o.Bucket, which servers may be using.
// errdefs.ErrNotFound when there is none.
func GC(ctx context.Context, o Options, gc GCOptions) (GCReport, error) {
	o.Existing = true
	s, err := openStorage(o)
	if err != nil {
		return GCReport{}, err
	}
	return (&Registry{store: s}).GC(ctx, gc)
}

// collect is the upkeep's collection: servers of one directory do it in turn.
func (g *Registry) collect(ctx context.Context) {
	start := time.Now()
	r, err := g.GC(ctx, g.gc)
	if !errdefs.IsUnavailable(err) {
		g.metrics.collection(r, err, time.Since(start))
	}
	switch {
	case errdefs.IsUnavailable(err), ctx.Err() != nil:
		return
	case err != nil:
		g.log.Error("collecting garbage", "error", err)
	}
	if r.RemovedTags+r.RemovedManifests+r.RemovedLinks+r.RemovedBlobs > 0 {
		g.log.Info("collected garbage", "tags", r.RemovedTags, "manifests", r.RemovedManifests, "links", r.RemovedLinks,
			"blobs", r.RemovedBlobs, "bytes", r.Bytes, "seconds", time.Since(start).Seconds())
	}
}

// gcLock is the file whose flock a collection holds.
func (s *directory) gcLock() string { return filepath.Join(s.root, "gc.lock") }

// pacer keeps work at a rate.
type pacer struct {
	rate  int // per second; 0: not at all
	start time.Time
	done  int
}

// did counts work, and waits when it is ahead of its time.
func (p *pacer) did(ctx context.Context, n int) error {
	before := p.done
	p.done += n
	if p.done/paceStep == before/paceStep {
		return nil
	}
	if err := ctx.Err(); err != nil || p.rate == 0 {
		return err
	}
	ahead := time.Duration(float64(p.done)/float64(p.rate)*float64(time.Second)) - time.Since(p.start)
	if ahead <= 0 {
		p.start, p.done = time.Now(), 0 // no burst for what a slow disk cost
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(ahead):
		return nil
	}
}

// paceStep is after how much work the pacer looks at the clock.
const paceStep = 256
