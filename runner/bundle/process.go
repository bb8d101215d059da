package bundle

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/oci"
)

// ExecOptions are what the caller decides.
type ExecOptions struct {
	Stdio
	IgnorePaused bool // start it although it will be frozen at once
}

// Exec starts a process in the container and returns it.
func (c *Container) Exec(p *specs.Process, o ExecOptions) (id statefile.Process, err error) {
	status, err := c.Status()
	switch {
	case err != nil:
		return id, err
	case status == specs.StateStopped || status == specs.StateCreating:
		return id, fmt.Errorf("cannot exec in a %s container: container not running: %w", status, errdefs.ErrFailedPrecondition)
	case status == Paused && !o.IgnorePaused:
		return id, fmt.Errorf("cannot exec in a paused container: %w", errdefs.ErrFailedPrecondition)
	}
	if err := checkConsole(p, o.Stdio); err != nil {
		return id, err
	}
	conf, err := c.spec()
	if err != nil {
		return id, err
	}
	opts := oci.ExecOptions{Preserve: len(o.Extra)}
	if g, err := c.group(); err != nil {
		return id, err
	} else if g != nil {
		opts.CgroupProcs, opts.CgroupDir = g.Procs(), g.V2Dir()
	}
	program, err := oci.CompileExec(conf, p, opts)
	if err != nil {
		return id, err
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return id, err
	}
	defer pidfd.Close()
	b, err := c.store.keeper()
	if err != nil {
		return id, err
	}
	files := append(append(o.Files[:], pidfd), o.Extra...)
	err = withProcess(b, program, files, o.Stdio, func(started statefile.Process) error {
		id = started
		return nil
	})
	return id, err
}

// Process is the process of the container's spec, as a start for others.
func (c *Container) Process() (*specs.Process, error) {
	conf, err := c.spec()
	if err != nil {
		return nil, err
	}
	if conf.Process == nil {
		return &specs.Process{Cwd: "/"}, nil
	}
	p := *conf.Process
	return &p, nil
}

// Pids are the processes of the container.
func (c *Container) Pids() ([]int, error) {
	g, err := c.needGroup()
	if err != nil {
		return nil, err
	}
	return g.Pids()
}

// Pause freezes the container.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, specs.StateRunning, true)
}

// Resume lets a paused container go on.
func (c *Container) Resume(ctx context.Context) error { return c.freeze(ctx, Paused, false) }

func (c *Container) freeze(ctx context.Context, from Status, frozen bool) (err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != from {
		return fmt.Errorf("container %s is %s, not %s: %w", c.ID, status, from, errdefs.ErrFailedPrecondition)
	}
	g, err := c.needGroup()
	if err != nil {
		return err
	}
	return g.Freeze(ctx, frozen)
}

// Update changes limits.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) (warnings []string, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	g, err := c.needGroup()
	if err != nil {
		return nil, err
	}
	return g.Update(r)
}

// Stats reads the counters of the container.
func (c *Container) Stats() (cgroup.Stats, error) {
	g, err := c.needGroup()
	if err != nil {
		return cgroup.Stats{}, err
	}
	return g.Stats()
}
