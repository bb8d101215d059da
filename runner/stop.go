package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// StopOptions change how Stop works.
type StopOptions struct {
	Signal  string         // "" is the container's
	Timeout *time.Duration // until SIGKILL, negative for never; nil is the container's
	down    bool           // because the machine goes down: see keeper.Client.Down
}

const defaultStopTimeout = 10 * time.Second

// Stop ends a container and returns after its end; its restart policy is not followed.
// One that does not run is left alone. No lock is held meanwhile.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if ended(c.State) {
		return nil
	}
	name := o.Signal
	if name == "" {
		name = c.stopSignal()
	}
	sig, err := ParseSignal(name)
	if err != nil {
		return err
	}
	timeout := c.stopTimeout()
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	if err := e.end(ctx, c, sig, timeout, o.down); err != nil {
		return err
	}
	e.tell(c, "stop", nil)
	return nil
}

func (c *Container) stopSignal() string {
	switch {
	case c.Options.StopSignal != "":
		return c.Options.StopSignal
	case c.ImageConfig.StopSignal != "":
		return c.ImageConfig.StopSignal
	}
	return "SIGTERM"
}

// end ends a container by way of its keeper, of the next keeper if that one dies
// meanwhile, and sees that it is finished. down says whether that is because the machine goes down.
func (e *Engine) end(ctx context.Context, c *Container, sig unix.Signal, timeout time.Duration, down bool) error {
	for {
		k, err := e.client(c)
		switch {
		case err != nil:
		case down:
			err = k.Down(ctx, sig, timeout)
		default:
			err = k.Stop(ctx, sig, timeout)
		}
		if err != nil && !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, errdefs.ErrConflict) {
			return err
		}
		now, err := e.current(ctx, c.ID)
		if errors.Is(err, errdefs.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if ended(now.State) {
			return e.Finish(ctx, c.ID)
		}
		c = now
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause waits a moment before something is tried again.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Kill sends a signal to a container, SIGKILL if name is empty. After SIGKILL it returns
// when the container has ended.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	if err := e.kill(ctx, ref, name); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	return nil
}

func (e *Engine) kill(ctx context.Context, ref, name string) error {
	if name == "" {
		name = "SIGKILL"
	}
	sig, err := ParseSignal(name)
	if err != nil {
		return err
	}
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	err = e.ask(ctx, c, func(k *keeper.Client) error {
		stop, _ := ParseSignal(c.stopSignal())
		return k.Signal(ctx, sig, keeper.SignalOptions{Final: sig == unix.SIGKILL || sig == stop})
	})
	if errors.Is(err, errdefs.ErrConflict) || errors.Is(err, errdefs.ErrUnavailable) {
		return notRunning(c)
	}
	if err != nil || sig != unix.SIGKILL {
		return err
	}
	return e.awaitEnd(ctx, c)
}

// killTime is how long the end of a container that was killed may take.
const killTime = 10 * time.Second

// awaitEnd waits until the run of a container that was killed has ended, and finishes it.
func (e *Engine) awaitEnd(ctx context.Context, c *Container) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTime, fmt.Errorf("container %s was killed and does not end: %w", c.ID, errdefs.ErrUnavailable))
	defer cancel()
	for {
		if _, err := e.Wait(ctx, c.ID); err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now, err := e.current(ctx, c.ID)
		switch {
		case errors.Is(err, errdefs.ErrNotFound):
			return nil
		case err != nil:
			return err
		case ended(now.State):
			return e.Finish(ctx, c.ID)
		case !now.State.StartedAt.Equal(c.State.StartedAt): // somebody has started it again
			return nil
		}
		if pause(ctx, 5*time.Millisecond) != nil {
			return context.Cause(ctx)
		}
	}
}

// Restart stops a container if it runs, and starts it. One that is removed at its end is
// not removed between the two.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	unmark := func() error { return nil }
	if c.Options.AutoRemove {
		if unmark, err = statefile.Lock(ctx, e.restartLock(c.ID), statefile.LockOptions{Shared: true}); err != nil {
			return missing(err, ref)
		}
	}
	err = e.Stop(ctx, c.ID, o)
	if err == nil {
		_, err = e.Start(ctx, c.ID, StartOptions{})
	}
	err = errors.Join(err, unmark())
	if c.Options.AutoRemove {
		if now, e2 := e.current(ctx, c.ID); e2 == nil && ended(now.State) { // it ended before the mark went
			return errors.Join(err, e.Finish(ctx, c.ID))
		}
	}
	if err != nil {
		return fmt.Errorf("Cannot restart container %s: %w", ref, err) //lint:ignore ST1005 docker's words
	}
	if c, err := e.Get(ctx, c.ID); err == nil {
		e.tell(c, "restart", nil)
	}
	return nil
}

// restartLock is held, shared, by all who restart a container.
func (e *Engine) restartLock(id string) string { return filepath.Join(e.dir(id), "restart.lock") }

// restarting says whether a container that has ended will be started by who has ended it. The container's lock is held.
func (e *Engine) restarting(id string) bool {
	if _, err := os.Lstat(e.restartLock(id)); err != nil {
		return false
	}
	unlock, free, err := statefile.TryLock(e.restartLock(id), statefile.LockOptions{})
	if free {
		err = unlock()
	}
	return err == nil && !free
}

// Pause freezes a container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	return e.ask(ctx, c, func(k *keeper.Client) error { return k.Pause(ctx) })
}

// Unpause thaws it.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !c.State.Status.GoesOn() { // no keeper says so, see cannotFreeze there
		return worded(errdefs.ErrConflict, "Container %s is not paused", c.ID)
	}
	return e.ask(ctx, c, func(k *keeper.Client) error { return k.Resume(ctx) })
}

// Wait returns the exit status of a container's next end, also of one that another run follows,
// or of its last if it does not run.
func (e *Engine) Wait(ctx context.Context, ref string) (keeper.ExitStatus, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return keeper.ExitStatus{}, err
	}
	for {
		if ended(c.State) {
			return keeper.ExitStatus{Code: c.State.ExitCode, OOMKilled: c.State.OOMKilled, Error: c.State.Error, Final: true}, nil
		}
		k, err := e.client(c)
		if err == nil {
			var s keeper.ExitStatus
			if s, err = k.Wait(ctx); err == nil {
				return s, nil
			}
		}
		// A keeper that has just seen the end says that nothing runs; the state follows.
		if !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, errdefs.ErrConflict) {
			return keeper.ExitStatus{}, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return keeper.ExitStatus{}, err
		}
		if c, err = e.current(ctx, c.ID); err != nil {
			return keeper.ExitStatus{}, err
		}
	}
}

// ParseSignal understands a number, "KILL" and "SIGKILL", also RTMIN+n, in any case.
func ParseSignal(s string) (unix.Signal, error) {
	invalid := worded(errdefs.ErrInvalidArgument, "invalid signal: %s", s)
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, invalid
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	const realtime, last = 34, 64 // as libc shows them
	var n int
	if _, err := fmt.Sscanf(name, "SIGRTMIN+%d", &n); err == nil && n >= 0 && n <= last-realtime {
		return unix.Signal(realtime + n), nil
	}
	if _, err := fmt.Sscanf(name, "SIGRTMAX-%d", &n); err == nil && n >= 0 && n <= last-realtime {
		return unix.Signal(last - n), nil
	}
	switch name {
	case "SIGRTMIN":
		return realtime, nil
	case "SIGRTMAX":
		return last, nil
	}
	return 0, invalid
}
