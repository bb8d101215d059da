package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
)

// RemoveOptions change how Remove works.
type RemoveOptions struct {
	Force   bool // kill it first
	Volumes bool // its anonymous volumes too
}

// Remove removes a container. One that runs is an errdefs.ErrConflict without Force.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	for {
		c, err := e.Get(ctx, ref)
		if err != nil {
			return err
		}
		err = e.removeIfEnded(ctx, ref, c, o)
		if !o.Force || !errors.Is(err, errStarted) {
			return err
		}
	}
}

// errStarted is a container that another process started after it had been looked at, or killed.
var errStarted = fmt.Errorf("started meanwhile: %w", errdefs.ErrConflict)

// removeIfEnded ends the container, if it runs and that is wanted, and removes it unless it was started again.
func (e *Engine) removeIfEnded(ctx context.Context, ref string, c *Container, o RemoveOptions) error {
	if !ended(c.State) {
		if !o.Force {
			return worded(errdefs.ErrConflict, "cannot remove container %q: container is %s: stop the container before removing or force remove", ref, c.State.Status)
		}
		if err := e.end(ctx, c, unix.SIGKILL, 0, false); err != nil {
			return fmt.Errorf("killing container %s: %w", ref, err)
		}
	}
	unlock, err := e.lock(ctx, c.ID)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil // it was --rm
	}
	if err != nil {
		return err
	}
	defer unlock()
	now, err := e.load(c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !ended(now.State) {
		return worded(errStarted, "cannot remove container %q: it was started meanwhile", ref)
	}
	return e.unmake(ctx, now, o)
}

// unmake removes all parts of a container, whichever there are. The record says that it is
// being removed until all that it alone knows of is gone, so that after a process that dies in between the next
// one goes on.
func (e *Engine) unmake(ctx context.Context, c *Container, o RemoveOptions) error {
	if c.State.Status != "" {
		c.State.Status = keeper.Removing
		if err := e.writeState(c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	store, err := e.Store()
	if err != nil {
		return err
	}
	tidied := make(chan error, 1) // both wait for the kernel most of their time
	go func() {
		if c.State.Finished {
			tidied <- nil
			return
		}
		e.poststop(ctx, c)
		tidied <- errors.Join(e.tidy(ctx, c), e.releaseVolumes(ctx, c))
	}()
	if err = store.Snapshots.Remove(ctx, c.ID); err != nil {
		err = fmt.Errorf("removing the root filesystem: %w", err)
	}
	if err := errors.Join(err, <-tidied); err != nil {
		return err
	}
	if err := c.unlease(ctx, store); err != nil { // nobody would know of it without the record
		return err
	}
	if c.Name != "" {
		if owner, err := os.Readlink(filepath.Join(e.names(), c.Name)); err == nil && owner == c.ID {
			os.Remove(filepath.Join(e.names(), c.Name))
		}
	}
	e.unlabel(c)
	gone := filepath.Join(e.containers(), removedPrefix+c.ID)
	if err := os.Rename(e.dir(c.ID), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.State.Status != "" { // it was a container, and not only being made
		e.tell(c, "destroy", nil)
	}
	if err := errors.Join(statefile.RemoveAll(gone), os.RemoveAll(e.execDir(c.ID))); err != nil {
		return err
	}
	if o.Volumes {
		return e.dropAnonymous(ctx, c)
	}
	return nil
}

// unlease gives up what a container has kept of images.
func (c *Container) unlease(ctx context.Context, store *cache.Store) error {
	err := store.Unlease(ctx, leaseName(c.ID))
	for _, p := range c.Mounts {
		if p.Type == "image" {
			err = errors.Join(err, store.Unlease(ctx, imageLeaseName(c.ID, p.Destination)))
		}
	}
	return err
}

const removedPrefix = ".removed-"

// dropAnonymous removes the container's anonymous volumes which nobody else uses.
func (e *Engine) dropAnonymous(ctx context.Context, c *Container) error {
	return e.dropVolumes(c, func(p MountPoint) bool { return p.Anonymous }, func(name string) error { return e.RemoveVolume(ctx, name, false) })
}

// dropMade removes the volumes that the create of the container has made, unless somebody else uses one meanwhile.
func (e *Engine) dropMade(ctx context.Context, c *Container) error {
	return e.dropVolumes(c, func(p MountPoint) bool { return p.made }, func(name string) error { return e.removeMadeVolume(ctx, name) })
}

func (e *Engine) dropVolumes(c *Container, which func(MountPoint) bool, remove func(name string) error) error {
	var errs []error
	for _, p := range c.Mounts {
		if p.Type != "volume" || !which(p) {
			continue
		}
		err := remove(p.Name)
		if !errors.Is(err, errdefs.ErrConflict) && !errors.Is(err, errdefs.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// PruneOptions say which containers go.
type PruneOptions struct {
	Filters map[string][]string // docker's: until, label, label!
}

// Prune removes the containers that do not run, but for those that are just being run, and
// returns their IDs and the bytes of what they had written.
func (e *Engine) Prune(ctx context.Context, o PruneOptions) (ids []string, size int64, err error) {
	if err := errors.Join(e.sweep(ctx), e.sweepNames(ctx)); err != nil {
		return nil, 0, err
	}
	all, err := e.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	now := time.Now()
	for _, c := range all {
		fit, err := c.pruneFits(o.Filters, now)
		if err != nil {
			return nil, 0, err
		}
		if !ended(c.State) || !fit || e.startsSoon(c) {
			continue
		}
		n := e.WrittenSize(c.ID)
		if err := e.Remove(ctx, c.ID, RemoveOptions{}); err != nil {
			if errors.Is(err, errdefs.ErrConflict) || errors.Is(err, errdefs.ErrNotFound) {
				continue
			}
			return ids, size, err
		}
		ids, size = append(ids, c.ID), size+n
	}
	e.TellPruned(event.Container, size)
	return ids, size, nil
}

// RootSizes are what the container's own layer holds and what its whole root filesystem
// does, in bytes.
func (e *Engine) RootSizes(id string) (written, whole int64) {
	written = e.WrittenSize(id)
	sn, err := e.snapshot(id)
	if err != nil {
		return written, written
	}
	whole = written
	for _, lower := range sn.Lowers {
		size, ok := e.layerSizes.Load(lower)
		if !ok {
			size = diskUsage(lower)
			e.layerSizes.Store(lower, size)
		}
		whole += size.(int64)
	}
	return written, whole
}

// WrittenSize is what the container's own layer holds, in bytes.
func (e *Engine) WrittenSize(id string) int64 {
	store, err := e.Store()
	if err != nil {
		return 0
	}
	sn, err := store.Snapshots.Get(id)
	if err != nil {
		return 0
	}
	return diskUsage(sn.Upper)
}
