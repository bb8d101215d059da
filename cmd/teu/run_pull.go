package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/image"
)

// imageMissing tells a missing image from something else that was not found.
func (a *app) imageMissing(ctx context.Context, name string) bool {
	store, err := a.store()
	if err != nil {
		return false
	}
	_, err = store.Lookup(ctx, name)
	return errors.Is(err, errdefs.ErrNotFound)
}

// pullForRun pulls an image, telling about it on standard error.
func (a *app) pullForRun(ctx context.Context, name string, p *ocispec.Platform, quiet bool) (err error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("invalid reference format: %w", err)
	}
	ref = reference.TagNameOnly(ref)
	store, err := a.store()
	if err != nil {
		return err
	}
	unpin, err := store.Pin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	repo, err := a.registry().Repository(ref)
	if err != nil {
		return err
	}
	what := "latest"
	switch r := ref.(type) {
	case reference.Canonical:
		what = r.Digest().String()
	case reference.Tagged:
		what = r.Tag()
	}
	if !quiet {
		a.ui.Notef("%s: Pulling from %s", what, reference.Path(ref))
	}
	root, err := repo.Resolve(ctx, what)
	if err != nil {
		return fmt.Errorf("pulling %s: %w", name, err)
	}
	if _, err := store.Pull(ctx, repo, root, cache.PullOptions{Platform: p}); err != nil {
		return fmt.Errorf("pulling %s: %w", name, err)
	}
	if err := store.Images.Put(ctx, image.Image{Name: ref.String(), Target: root, Created: time.Now().UTC()}); err != nil {
		return err
	}
	if !quiet {
		a.ui.Notef("Digest: %s", root.Digest)
	}
	return nil
}
