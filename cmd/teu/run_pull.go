//go:build !front && !porter

package main

import (
	"context"
	"errors"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

// imageMissing tells a missing image from something else that was not found.
func (a *app) imageMissing(ctx context.Context, name string, cause error) bool {
	store, err := a.store()
	if err != nil {
		return false
	}
	_, err = store.Lookup(ctx, name)
	return isNotFound(err) || errors.Is(cause, runner.ErrPlatform)
}

// pullForRun pulls an image and tells about it on standard error: standard output is the
// container's.
func (a *app) pullForRun(ctx context.Context, name string, p *ocispec.Platform, quiet bool) error {
	ref, err := parseName(name)
	if err != nil {
		return err
	}
	ref = reference.TagNameOnly(ref)
	images, err := a.library()
	if err != nil {
		return err
	}
	if !quiet {
		a.ui.Notef("%s: Pulling from %s", tagOf(ref), reference.Path(ref))
	}
	progress := a.ui.Transfer(ui.PullWords(), ui.TransferMode("auto").Quiet(quiet))
	done, err := images.Pull(ctx, ref, library.PullOptions{Platform: p, Progress: progress.Event})
	progress.Close()
	if err != nil {
		return err
	}
	if !quiet {
		a.ui.Notef("Digest: %s", done.Target.Digest)
	}
	return nil
}
