package runner

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/keeper"
)

// Finish does what is left to do after a container's final exit: it leaves the network,
// its volatile state goes, and with AutoRemove the container itself. It is done once,
// whoever comes first: the client that waited, the keeper, or the next command.
func (e *Engine) Finish(ctx context.Context, id string) error {
	unlock, err := e.lock(ctx, id)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	c, err := e.load(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case c.Options.AutoRemove && ended(c.State) && !c.State.StartedAt.IsZero() && !e.restarting(id):
		return e.unmake(ctx, c, RemoveOptions{Volumes: true})
	}
	return e.finish(ctx, c)
}

// finish is Finish without removal, under the container's lock.
func (e *Engine) finish(ctx context.Context, c *Container) error {
	if c.State.Finished || !ended(c.State) {
		return nil
	}
	if err := e.awaitKeeper(ctx, c); err != nil || !ended(c.State) {
		return err
	}
	e.poststop(ctx, c)
	if err := errors.Join(e.tidy(ctx, c), e.releaseVolumes(ctx, c)); err != nil {
		return err
	}
	c.State.Finished = true
	return e.writeState(c)
}

// awaitKeeper waits while a keeper starts the container whose starter has died meanwhile, and
// reads what became of it: after the last look for a keeper, which may have started the
// container and been killed since c was read.
func (e *Engine) awaitKeeper(ctx context.Context, c *Container) error {
	for ended(c.State) && !c.State.Keeper.Alive() {
		lives, err := keeper.Lives(e.runDir(c.ID))
		if err != nil {
			return err
		}
		now, err := e.load(c.ID)
		if err != nil {
			return err
		}
		c.State = now.State
		if !lives {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// ended says whether nothing of a container goes on. A container that was created but
// not started has ended too: its start may have failed half-way.
func ended(s keeper.State) bool {
	return s.Status == keeper.Exited || s.Status == keeper.Dead || s.Status == keeper.Created || s.Status == keeper.Removing
}

// runs says whether the container has processes.
func runs(s keeper.State) bool { return s.Status == keeper.Running || s.Status == keeper.Paused }

// tidy removes everything volatile.
func (e *Engine) tidy(ctx context.Context, c *Container) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	g, err := e.cgroup(c)
	if err == nil {
		// A keeper that died between fork and record may have left a container nobody knows of.
		err = g.End(ctx)
	}
	e.tellLeft(c)
	err = errors.Join(err, keeper.EndHolders(e.runDir(c.ID), c.State))
	return errors.Join(err, e.network.Detach(ctx, c.ID), os.RemoveAll(e.runDir(c.ID)))
}
