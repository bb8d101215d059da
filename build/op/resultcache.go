package op

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/result"
)

// A Cache remembers results in the store. A record whose layers are gone is not there.
type Cache struct {
	env   *Env
	store *result.Store
}

var _ solver.Cache[Result] = (*Cache)(nil)

// NewCache returns the solver's cache on top of store.
func NewCache(e *Env, store *result.Store) *Cache { return &Cache{env: e, store: store} }

// Get implements solver.Cache.
func (c *Cache) Get(ctx context.Context, key digest.Digest) (r solver.Record[Result], ok bool, err error) {
	rec, err := c.store.Get(ctx, key)
	if errdefs.IsNotFound(err) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	var outputs []Result
	if json.Unmarshal(rec.Value, &outputs) != nil {
		return r, false, nil // written by another version
	}
	for _, o := range outputs {
		if !c.env.rebase(o) {
			return r, false, nil
		}
		if ok, err := c.env.available(o); !ok || err != nil {
			return r, false, err
		}
	}
	return solver.Record[Result]{Key: rec.Key, Description: rec.Description, Outputs: outputs, Plain: rec.Plain}, true, nil
}

// Put implements solver.Cache.
func (c *Cache) Put(ctx context.Context, r solver.Record[Result]) error {
	rec := result.Record{Key: r.Key, Description: r.Description, Plain: r.Plain}
	for _, o := range r.Outputs {
		if o.Local != nil {
			return fmt.Errorf("build cache: the directory %s cannot be kept: %w", o.Local.path, errdefs.ErrInvalidArgument)
		}
		for _, l := range o.Layers {
			if l.ID != "" { // else fetched again when needed
				rec.Layers = append(rec.Layers, l.ID)
			}
		}
	}
	if n := len(rec.Layers); n > 0 {
		rec.Size = c.env.Store.Layers.Size(rec.Layers[n-1]) // what lies below belongs to other records
	}
	var err error
	if rec.Value, err = json.Marshal(r.Outputs); err != nil {
		return err
	}
	return c.store.Put(ctx, rec)
}

// Alias implements solver.Cache.
func (c *Cache) Alias(ctx context.Context, key, canonical digest.Digest) error {
	return c.store.Alias(ctx, key, canonical)
}

// Lock implements solver.Cache.
func (c *Cache) Lock(ctx context.Context, key digest.Digest) (unlock func(failed error) error, err error) {
	return c.store.Lock(ctx, key)
}
