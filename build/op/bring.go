package op

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/build/solver"
)

// bring fetches layers that are not here: those of a base image with all of that image, those of a
// shared cache one by one.
func (e *Env) bring(ctx context.Context, c *solver.Console, missing []*Layer) error {
	const atOnce = 4
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	pulled := map[digest.Digest]bool{}
	for _, l := range missing {
		switch {
		case l.From != nil:
			g.Go(func() error { return e.bringShared(gctx, c, l) })
		case l.Origin == nil:
			g.Go(func() error { return fmt.Errorf("layer %s: %w", l.ID, errdefs.ErrNotFound) })
		case !pulled[l.Origin.Manifest.Digest]:
			pulled[l.Origin.Manifest.Digest] = true
			g.Go(func() error { return e.pull(gctx, c, *l.Origin) })
		}
	}
	return g.Wait()
}

// bringShared fetches one layer of a shared cache, once for all steps that want it.
func (e *Env) bringShared(ctx context.Context, c *solver.Console, l *Layer) error {
	e.mu.Lock()
	if e.shared == nil {
		e.shared = map[digest.Digest]*once[string]{}
	}
	o := e.shared[l.DiffID]
	if o == nil {
		o = &once[string]{}
		e.shared[l.DiffID] = o
	}
	e.mu.Unlock()
	_, err := o.get(func() (string, error) {
		return e.Store.PullLayer(ctx, l.DiffID, *l.Blob, l.From, progress(c))
	})
	if err != nil && ctx.Err() == nil {
		return &FetchError{From: l.From, Err: err}
	}
	return err
}

// noteBase remembers the layers of an image that steps may stand on.
func (e *Env) noteBase(layers []Layer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bases == nil {
		e.bases = map[digest.Digest]Layer{}
	}
	for _, l := range layers {
		e.bases[l.DiffID] = l
	}
}

// BaseLayer returns a layer of an image that this build has asked for.
func (e *Env) BaseLayer(diffID digest.Digest) (Layer, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, ok := e.bases[diffID]
	return l, ok
}
