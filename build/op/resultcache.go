package op

import (
	"context"

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
	return r, false, errTODO
}

// Put implements solver.Cache.
func (c *Cache) Put(ctx context.Context, r solver.Record[Result]) error { return errTODO }

// Alias implements solver.Cache.
func (c *Cache) Alias(ctx context.Context, key, canonical digest.Digest) error {
	return c.store.Alias(ctx, key, canonical)
}

// Lock implements solver.Cache.
func (c *Cache) Lock(ctx context.Context, key digest.Digest) (unlock func() error, err error) {
	return c.store.Lock(ctx, key)
}
