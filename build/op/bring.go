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
	_, err := e.shared.get(l.DiffID, func() (string, error) {
		return e.Store.PullLayer(ctx, l.DiffID, *l.Blob, l.From, progress(c))
	})
	if err != nil && ctx.Err() == nil {
		return &FetchError{From: l.From, Err: err}
	}
	return err
}

// noteBase remembers the layers of an image that steps may stand on. It says whether all of them have
// the bytes that other images of this build give for their diffIDs. Where not, none is believed: what an
// image says its layers unpack to is known to be true only when they have been unpacked.
func (e *Env) noteBase(layers []Layer) (agree bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bases == nil {
		e.bases = map[digest.Digest]Layer{}
	}
	agree = true
	for _, l := range layers {
		known, ok := e.bases[l.DiffID]
		if ok && (known.Blob == nil || known.Blob.Digest != l.Blob.Digest) {
			e.bases[l.DiffID], agree = Layer{}, false
			continue
		}
		e.bases[l.DiffID] = l
	}
	return agree
}

// BaseLayer returns a layer of an image that this build has asked for.
func (e *Env) BaseLayer(diffID digest.Digest) (Layer, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.bases[diffID]
	return l, l.Blob != nil
}

// rebase gives the layers of images in r, which an earlier build has remembered, the blobs that the images
// of this build have for them: the image that they came from may have lied about them.
func (e *Env) rebase(r Result) (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, l := range r.Layers {
		base, known := e.bases[l.DiffID]
		switch {
		case l.Origin == nil || !known:
		case base.Blob == nil:
			return false
		default:
			r.Layers[i] = base
		}
	}
	return true
}
