package runner

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// List returns all containers, the newest first. It takes no lock and waits for no
// container, except that for a moment it lets orphans be adopted. They may only be looked at.
func (e *Engine) List(ctx context.Context) ([]*Container, error) {
	e.mendRenames(ctx)
	ids, err := e.IDs()
	if err != nil {
		return nil, err
	}
	all, errs, lost := make([]*Container, len(ids)), make([]error, len(ids)), make([]bool, len(ids))
	each(len(ids), func(i int) {
		c, err := e.loadKnown(ids[i], e.known)
		switch {
		case err == nil:
			all[i], lost[i] = c, e.seemsOrphaned(c) || c.unfinished()
		case !errors.Is(err, fs.ErrNotExist): // which is one being made or removed
			errs[i] = err
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	e.known.keep(func(yield func(string) bool) {
		for _, id := range ids {
			if !yield(e.configFile(id)) || !yield(e.stateFile(id)) {
				return
			}
		}
	}, 2*len(ids))
	e.adoptAll(ctx, all, lost)
	all = slices.DeleteFunc(all, func(c *Container) bool { return c == nil })
	slices.SortFunc(all, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// each calls f for 0 to n-1 on all processors.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wg.Wait()
}

// tryFinish finishes a container whose keeper died before it could, unless somebody is
// working on it.
func (e *Engine) tryFinish(ctx context.Context, c *Container) {
	unlock, ok, err := statefile.TryLock(filepath.Join(e.dir(c.ID), "lock"), statefile.LockOptions{})
	if err != nil || !ok {
		return
	}
	unlock()
	e.Finish(ctx, c.ID)
}

// seemsOrphaned is orphaned for listings. A keeper that was killed counts as living until the last of its threads has
// ended, which may be moments later than the first: whoever lists next adopts what it left.
func (e *Engine) seemsOrphaned(c *Container) bool {
	return c.State.Status.GoesOn() && !c.State.Keeper.Holds(e.configFile(c.ID)) && !c.State.Keeper.Alive()
}

// adoptTime is how long a listing lets orphans be adopted.
const adoptTime = 2 * time.Second

// unfinished says whether a container has ended and lost its keeper before that could finish it, or was to be removed at its
// end by one who wanted to start it again first.
func (c *Container) unfinished() bool {
	return ended(c.State) && !c.State.Keeper.Alive() && (!c.State.Finished || c.Options.AutoRemove && !c.State.StartedAt.IsZero())
}

// adoptAll adopts or finishes those that are lost. What it cannot is shown as it is; nil is
// one that is gone.
func (e *Engine) adoptAll(ctx context.Context, all []*Container, lost []bool) {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	var wg sync.WaitGroup
	for i, c := range all {
		if !lost[i] {
			continue
		}
		wg.Go(func() {
			if ended(c.State) {
				e.tryFinish(ctx, c)
			} else if e.adopt(ctx, c) != nil {
				return
			}
			now, err := e.load(c.ID)
			if err == nil {
				all[i] = now
			} else if errors.Is(err, fs.ErrNotExist) {
				all[i] = nil
			}
		})
	}
	wg.Wait()
}
