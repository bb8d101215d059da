package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/build/solver"
)

// A sharedCache is the solver's cache: the local one, and behind it those of other machines. What is
// found or made is sent to the places of --cache-to while the build goes on.
type sharedCache struct {
	r     *run
	local solver.Cache[op.Result]
	from  []*importer
	to    []*exporter

	mu   sync.Mutex
	seen map[digest.Digest]*seenRecord // by canonical key
}

// A seenRecord is a record that this build met, and the keys it is known under.
type seenRecord struct {
	solver.Record[op.Result]
	keys   []digest.Digest
	remote *importer // it came from there; nil: from here
}

var _ solver.Cache[op.Result] = (*sharedCache)(nil)

// Get implements solver.Cache.
func (s *sharedCache) Get(ctx context.Context, key digest.Digest) (solver.Record[op.Result], bool, error) {
	rec, ok, err := s.local.Get(ctx, key)
	if ok || err != nil {
		if ok {
			s.met(rec, key, nil)
		}
		return rec, ok, err
	}
	for _, im := range s.from {
		rec, ok := im.get(ctx, key)
		if ok {
			s.met(rec, key, im)
			return rec, true, nil
		}
		if ctx.Err() != nil {
			return rec, false, context.Cause(ctx)
		}
	}
	return rec, false, nil
}

// Put implements solver.Cache.
func (s *sharedCache) Put(ctx context.Context, rec solver.Record[op.Result]) error {
	if err := s.local.Put(ctx, rec); err != nil {
		return err
	}
	s.met(rec, rec.Key, nil)
	return nil
}

// Alias implements solver.Cache.
func (s *sharedCache) Alias(ctx context.Context, key, canonical digest.Digest) error {
	s.mu.Lock()
	seen := s.seen[canonical]
	s.mu.Unlock()
	if seen != nil {
		s.met(seen.Record, key, seen.remote)
		if seen.remote != nil {
			return nil // adopt will do it
		}
	}
	return s.local.Alias(ctx, key, canonical)
}

// Lock implements solver.Cache.
func (s *sharedCache) Lock(ctx context.Context, key digest.Digest) (unlock func(failed error) error, err error) {
	return s.local.Lock(ctx, key)
}

// met notes that rec has the name key, and sends it on.
func (s *sharedCache) met(rec solver.Record[op.Result], key digest.Digest, from *importer) {
	s.mu.Lock()
	seen := s.seen[rec.Key]
	if seen == nil || from == nil && seen.remote != nil {
		old := seen
		seen = &seenRecord{Record: rec, remote: from}
		if old != nil {
			seen.keys = old.keys
		}
		s.seen[rec.Key] = seen
	}
	names := append([]digest.Digest{rec.Key, key}, rec.Plain...)
	for _, k := range names {
		if !slices.Contains(seen.keys, k) {
			seen.keys = append(seen.keys, k)
		}
	}
	s.mu.Unlock()
	for _, ex := range s.to {
		if !ex.last {
			ex.send(rec, from, names...)
		}
	}
}

// records returns what was met.
func (s *sharedCache) records() (list []*seenRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		list = append(list, seen)
	}
	return list
}

// adopt makes local records of those that came from elsewhere and whose layers are here by now. It replaces nothing
// that is here: whoever writes to a cache decides what is found there, not what other builds have made, whose keys an
// entry may name as its own.
func (s *sharedCache) adopt(ctx context.Context) error {
	for _, seen := range s.records() {
		if seen.remote == nil {
			continue
		}
		rec := seen.Record
		rec.Outputs = slices.Clone(rec.Outputs)
		whole := true
		for i, out := range rec.Outputs {
			ids, _, err := s.r.env.LocalIDs(out)
			if err != nil {
				return err
			}
			out.Layers = slices.Clone(out.Layers)
			for j := range out.Layers {
				l := &out.Layers[j]
				if l.From == nil {
					continue
				}
				whole = whole && ids[j] != ""
				l.ID, l.From = ids[j], nil
			}
			rec.Outputs[i] = out
		}
		if !whole {
			continue // nobody needed them; the next build asks again
		}
		for i, key := range append([]digest.Digest{rec.Key}, seen.keys...) {
			if i > 0 && key == rec.Key {
				continue
			}
			_, taken, err := s.local.Get(ctx, key)
			switch {
			case err != nil:
			case taken:
			case i == 0:
				err = s.local.Put(ctx, rec)
			default:
				err = s.local.Alias(ctx, key, rec.Key)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// wait returns when nothing is being sent any more. What a build made before it failed is of use.
func (s *sharedCache) wait() {
	for _, x := range s.to {
		x.wg.Wait()
	}
}

// drop gives up a place whose layers cannot be had.
func (s *sharedCache) drop(from op.Blobs) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.from)
	s.from = slices.DeleteFunc(s.from, func(im *importer) bool { return im.place == from })
	for key, seen := range s.seen {
		if seen.remote != nil && seen.remote.place == from {
			delete(s.seen, key)
		}
	}
	return len(s.from) < before
}

// An importer looks records up in a place.
type importer struct {
	r      *run
	place  remotecache.Place
	mounts bool // cache mounts too

	mu      sync.Mutex
	down    bool                   // it does not answer
	missing map[digest.Digest]bool // keys that are known not to be there: most are asked for twice
}

// get returns the record of key; whatever is wrong with it or with the place is only warned of.
func (im *importer) get(ctx context.Context, key digest.Digest) (rec solver.Record[op.Result], ok bool) {
	im.mu.Lock()
	skip := im.down || im.missing[key]
	im.mu.Unlock()
	if skip {
		return rec, false
	}
	entry, err := remotecache.Get(ctx, im.place, key)
	if err == nil {
		rec, err = im.record(entry)
	}
	if err == nil {
		return rec, true
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	switch {
	case ctx.Err() != nil, im.down:
	case errdefs.IsNotFound(err):
		im.missing[key] = true
	case errdefs.IsInvalidArgument(err), errdefs.IsDataLoss(err), errdefs.IsOutOfRange(err):
		im.missing[key] = true
		im.r.warnf("cache entry ignored: %v", err)
	default:
		im.down = true
		im.r.warnf("building without the cache %s: %v", im.place, err)
	}
	return rec, false
}

// record turns an entry into what the solver passes on. No layer is fetched for it.
func (im *importer) record(e remotecache.Entry) (solver.Record[op.Result], error) {
	rec := solver.Record[op.Result]{Key: e.Canonical, Plain: e.Plain, Description: e.Description, Outputs: make([]op.Result, len(e.Outputs))}
	for i, layers := range e.Outputs {
		for _, l := range layers {
			base, ok := im.r.env.BaseLayer(l.DiffID)
			switch {
			case ok:
				rec.Outputs[i].Layers = append(rec.Outputs[i].Layers, base)
			case l.Blob != nil:
				rec.Outputs[i].Layers = append(rec.Outputs[i].Layers, op.Layer{DiffID: l.DiffID, Blob: l.Blob, From: im.place, Created: l.Created})
			default:
				return rec, fmt.Errorf("cache entry of %s: its layer %s is of no base image of this build: %w", im.place, l.DiffID, errdefs.ErrInvalidArgument)
			}
		}
	}
	return rec, nil
}

// openCache makes the cache that the solver works with.
func (r *run) openCache(ctx context.Context) error {
	s := &sharedCache{r: r, local: op.NewCache(r.env, r.b.Store.Results), seen: map[digest.Digest]*seenRecord{}}
	r.cache = s
	for _, ref := range r.o.CacheFrom {
		place, err := r.openPlace(ctx, ref, false)
		switch {
		case err == nil:
			im := &importer{r: r, place: place, missing: map[digest.Digest]bool{}}
			if im.mounts, err = ref.flag("mounts"); err != nil {
				return fmt.Errorf("--cache-from %s: %w", ref, err)
			}
			s.from = append(s.from, im)
		case errdefs.IsInvalidArgument(err) || ctx.Err() != nil:
			return fmt.Errorf("--cache-from %s: %w", ref, err)
		default:
			r.warnf("building without the cache %s: %v", ref, err)
		}
	}
	for _, ref := range r.o.CacheTo {
		ex, err := r.newExporter(ctx, ref)
		if err != nil {
			return fmt.Errorf("--cache-to %s: %w", ref, err)
		}
		if ex != nil {
			s.to = append(s.to, ex)
		}
	}
	return nil
}

// solveAll solves the definitions of all platforms and brings the layers that the outputs need. A shared
// cache that turns out to have promised too much is given up and the build begun again without it.
func (r *run) solveAll(ctx context.Context, solve func(ctx context.Context) ([]op.Result, error)) ([]op.Result, error) {
	for {
		states, err := solve(ctx)
		if err == nil && r.needsBytes() {
			err = r.bring(ctx, states)
		}
		var broken *op.FetchError
		if !errors.As(err, &broken) || ctx.Err() != nil || !r.cache.drop(broken.From) {
			return states, err
		}
		r.warnf("building again without the cache %v", broken)
		r.solver = r.newSolver()
	}
}

// bring has all layers of states in the store.
func (r *run) bring(ctx context.Context, states []op.Result) error {
	for _, state := range states {
		_, missing, err := r.env.LocalIDs(state)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			continue
		}
		err = r.step(ctx, "fetching layers", func(c *solver.Console) error {
			_, err := r.env.LayerIDs(ctx, c, state)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
