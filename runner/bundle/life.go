package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/hook"
	"github.com/teu-dev/teu/runner/launch"
)

// killTime is how long processes that were killed may take to go away.
const killTime = 10 * time.Second

// strayTime is how long commands may take to fail that were being executed when the container ended.
const strayTime = time.Second

// Start lets the process of a created container execute its command.
func (c *Container) Start(ctx context.Context) (err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	status, err := c.Status()
	if err != nil {
		return err
	}
	switch status {
	case specs.StateCreated:
	case specs.StateStopped:
		return fmt.Errorf("cannot start a container that has stopped%s: %w", c.whyStopped(), errdefs.ErrFailedPrecondition)
	case specs.StateRunning, Paused:
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("cannot start a container in the %s state: %w", status, errdefs.ErrFailedPrecondition)
	}
	p, err := c.program()
	if err != nil {
		return err
	}
	if c.Plain {
		if err := c.release(p, fifoName, nil); err != nil {
			return errors.Join(err, c.abort())
		}
		return nil
	}
	conf, err := c.spec()
	if err != nil {
		return err
	}
	if conf.Process == nil {
		return errors.Join(fmt.Errorf("cannot start a container without a process property: %w", errdefs.ErrFailedPrecondition), c.abort())
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close()
	hooks, err := c.startHooks(conf, pidfd)
	if err != nil {
		return err
	}
	if err := hooks.Run(ctx, hook.StartContainer); err != nil {
		return errors.Join(err, c.abort())
	}
	if err := c.release(p, fifoName, func(fd int) error { return c.giveListener(conf, pidfd, fd) }); err != nil {
		return errors.Join(err, c.abort())
	}
	if err := hooks.Run(ctx, hook.Poststart); err != nil {
		return errors.Join(err, c.abort())
	}
	return nil
}

func (c *Container) program() (*launch.Program, error) {
	code, err := os.ReadFile(filepath.Join(c.dir, programName))
	if err != nil {
		return nil, err
	}
	p := new(launch.Program)
	if err := p.UnmarshalBinary(code); err != nil {
		return nil, fmt.Errorf("reading the launch program: %w", err)
	}
	return p, nil
}

// whyStopped tells of a container that ended before its start what can be known of it.
func (c *Container) whyStopped() string {
	if g, err := c.group(); err == nil && g != nil {
		if s, err := g.Stats(); err == nil && s.OOMKills > 0 {
			return ": it was killed for want of memory (memory limit too low?)"
		}
	}
	return ""
}

// abort ends a container whose start has failed. It may have ended by itself.
func (c *Container) abort() error {
	if err := c.Kill(unix.SIGKILL, KillOptions{}); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// release lets the process go on that waits at a FIFO, and removes the FIFO.
func (c *Container) release(p *launch.Program, fifo string, listener func(fd int) error) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close()
	path := filepath.Join(c.dir, fifo)
	if err := launch.Release(p, path, pidfd, listener); err != nil {
		return fmt.Errorf("starting container %s: %w", c.ID, err)
	}
	return os.Remove(path)
}

// Kill sends a signal to the first process, or with all to every one.
func (c *Container) Kill(sig unix.Signal, o KillOptions) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	if g != nil && (o.All || sig == unix.SIGKILL && c.sharesPIDs()) {
		if c.Init.PID != 0 && !c.Init.Alive() && !c.sharesPIDs() {
			return nil // see endGroup
		}
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if sig == unix.SIGKILL && len(pids) > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), killTime)
			defer cancel()
			return errors.Join(c.thawKilled(g, sig), g.Kill(ctx))
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
				return fmt.Errorf("sending %s to process %d: %w", unix.SignalName(sig), pid, err)
			}
		}
		return c.thawKilled(g, sig)
	}
	f, err := c.pidfd()
	if err != nil {
		return err
	}
	defer f.Close()
	if ends(sig) && c.waits() {
		// The first process of a PID namespace would not get a signal it does not handle, and
		// this one cannot handle any before it is started.
		sig = unix.SIGKILL
	}
	c.awaitHandler(sig)
	if err := unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0); err != nil {
		return fmt.Errorf("sending %s to container %s: %w", unix.SignalName(sig), c.ID, err)
	}
	return c.thawKilled(g, sig)
}

// waits says that the container has been created and not started.
func (c *Container) waits() bool {
	_, err := os.Lstat(filepath.Join(c.dir, fifoName))
	return err == nil
}

// ends says that a signal ends a process that does nothing about it; signal(7).
func ends(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH:
		return false
	}
	return true
}

// sharesPIDs says that the end of the first process is not that of the others: there is no
// PID namespace that ends with it.
func (c *Container) sharesPIDs() bool {
	conf, err := c.spec()
	return err == nil && !slices.ContainsFunc(conf.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.PIDNamespace && ns.Path == ""
	})
}

// awaitHandler gives a command that was executed moments ago the time to install its
// handler: a signal that the first process of a PID namespace does not handle is lost, and any
// other process is ended by it that would have ended by itself, as in a pod that shares its
// PID namespace.
func (c *Container) awaitHandler(sig unix.Signal) {
	const young = 200 * time.Millisecond
	info, err := os.Stat(c.dir) // changed last when start removed the FIFO
	if err != nil || sig == 0 || sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return
	}
	for time.Since(info.ModTime()) < young && unready(c.Init.PID, sig) {
		time.Sleep(5 * time.Millisecond)
	}
}

// unready says that pid does nothing about sig, which ends it or is lost; proc_pid_status(5).
func unready(pid int, sig unix.Signal) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	first, handled := false, false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch key {
		case "NSpid":
			ids := strings.Fields(value)
			first = len(ids) > 1 && ids[len(ids)-1] == "1"
		case "SigCgt", "SigIgn":
			mask, err := strconv.ParseUint(value, 16, 64)
			handled = handled || err != nil || mask&(1<<(sig-1)) != 0
		}
	}
	return (first || ends(sig)) && !handled
}

// KillOptions say who gets the signal.
type KillOptions struct{ All bool }

// thawKilled lets frozen processes of a v1 group die of SIGKILL.
func (c *Container) thawKilled(g *cgroup.Group, sig unix.Signal) error {
	if g == nil || sig != unix.SIGKILL {
		return nil
	}
	frozen, err := g.Frozen()
	if err != nil || !frozen {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	return g.Freeze(ctx, false)
}

// Delete removes a container that has stopped or was never started, with Force any. A
// poststop hook that fails is only worth a warning.
func (c *Container) Delete(ctx context.Context, o DeleteOptions) (warnings []string, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	if !o.Force && status != specs.StateStopped && status != specs.StateCreated && status != specs.StateCreating {
		return nil, fmt.Errorf("cannot delete container %s that is not stopped: %s: %w", c.ID, status, errdefs.ErrFailedPrecondition)
	}
	if c.Plain {
		return nil, c.discard(context.WithoutCancel(ctx))
	}
	conf, specErr := c.spec() // none if it was never made whole
	if err := c.discard(context.WithoutCancel(ctx)); err != nil || specErr != nil || conf.Hooks == nil {
		return nil, err
	}
	return c.hooks(conf).RunAll(ctx, hook.Poststop), nil
}

// DeleteOptions say what is deleted.
type DeleteOptions struct{ Force bool }

// discard ends what lives of the container and removes what is left, the record last.
func (c *Container) discard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	ended := c.Init.PID != 0 && !c.Init.Alive()
	if f, err := c.pidfd(); err == nil {
		defer f.Close()
		if err := unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("killing container %s: %w", c.ID, err)
		}
	}
	if g, err := c.group(); err != nil {
		return err
	} else if g != nil && (c.Scope.Unit != "" || !g.RemoveEmpty()) {
		if err := c.endGroup(ctx, g, ended); err != nil {
			return fmt.Errorf("removing the control group of container %s: %w", c.ID, err)
		}
	}
	if err := errors.Join(c.awaitEnd(ctx), c.leaveRDT()); err != nil {
		return err
	}
	for _, name := range []string{gateName, fifoName, watchName, programName, configName, recordName} {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(c.clear(), os.Remove(filepath.Join(c.dir, lockName))); err != nil {
		return err
	}
	if err := unix.Rmdir(c.dir); err != nil && err != unix.ENOTEMPTY { // somebody makes the container anew
		return &os.PathError{Op: "rmdir", Path: c.dir, Err: err}
	}
	return nil
}

// endGroup kills what is left in the control group and removes it. Of a container whose PID namespace has ended nothing
// is left: whatever is there is of another container, which was given the same path after that, and stays.
func (c *Container) endGroup(ctx context.Context, g *cgroup.Group, ended bool) error {
	if ended && !c.sharesPIDs() {
		if empty, err := g.AwaitEmpty(ctx, strayTime); err != nil || !empty {
			return err
		}
		return errors.Join(c.stopScope(ctx), g.Remove(ctx))
	}
	return errors.Join(c.thawKilled(g, unix.SIGKILL), g.Kill(ctx), c.stopScope(ctx), g.Remove(ctx))
}

// awaitEnd waits for the killed process to be gone.
func (c *Container) awaitEnd(ctx context.Context) error {
	for c.Init.PID != 0 && c.Init.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of container %s: %w", c.ID, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}
