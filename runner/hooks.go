package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/hook"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/oci"
)

// The hooks that vendors of devices want to have run (runner/cdi) run at each start of a
// container, by `teu container hooks`, which its keeper executes while the process waits. They
// are told of a bundle, which is
//
//	RUNROOT/containers/ID/bundle/config.json  the runtime spec
//	RUNROOT/containers/ID/bundle/rootfs       where they find the root, in the container's mount namespace
//	RUNROOT/containers/ID/{create,start}      FIFOs at which the process waits

func (e *Engine) bundleDir(id string) string { return filepath.Join(e.runDir(id), "bundle") }

// phases are the stops of a start, and the hooks that run then.
var phases = []struct {
	name   string
	points []hook.Point
	fifo   func(o *oci.Options) *string // where the program learns that it has to wait
}{
	{"create", []hook.Point{hook.Prestart, hook.CreateRuntime, hook.CreateContainer}, func(o *oci.Options) *string { return &o.Gate }},
	{"start", []hook.Point{hook.StartContainer}, func(o *oci.Options) *string { return &o.Pause }},
	{"started", []hook.Point{hook.Poststart}, nil},
}

func (o *Options) checkHooks() error {
	if o.Hooks != nil && o.UsernsMode != "" && o.UsernsMode != "host" {
		return worded(errdefs.ErrNotImplemented, "--userns %s: its devices need hooks, which cannot reach the files of a container with a user namespace of its own", o.UsernsMode)
	}
	return nil
}

// prepareHooks makes the bundle, and a program that waits for the hooks.
func (e *Engine) prepareHooks(c *Container, p *plan, o *oci.Options) error {
	h := c.Options.Hooks
	if h == nil {
		return nil
	}
	p.spec.Hooks = h
	conf := *p.spec
	conf.Root = &specs.Root{Path: filepath.Join(e.bundleDir(c.ID), "rootfs"), Readonly: p.spec.Root.Readonly}
	if err := os.MkdirAll(conf.Root.Path, 0o700); err != nil {
		return err
	}
	if err := statefile.Write(filepath.Join(e.bundleDir(c.ID), "config.json"), &conf, statefile.WriteOptions{}); err != nil {
		return err
	}
	o.HooksRoot = conf.Root.Path
	for _, ph := range phases {
		n := 0
		for _, at := range ph.points {
			n += len(at.Of(h))
		}
		if n == 0 && ph.name != "create" { // a program with hooks has that stop
			continue
		}
		g := keeper.Gate{Command: e.teu("container", "hooks", c.ID, ph.name)}
		if ph.fifo != nil {
			g.FIFO = filepath.Join(e.runDir(c.ID), ph.name)
			if err := os.Remove(g.FIFO); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if err := unix.Mkfifo(g.FIFO, 0o600); err != nil {
				return fmt.Errorf("mkfifo %s: %w", g.FIFO, err)
			}
			*ph.fifo(o) = g.FIFO
		}
		p.gates = append(p.gates, g)
	}
	return nil
}

// hooks are those of a container that is being started or has ended.
func (e *Engine) hooks(id string) (*hook.Container, error) {
	c := &hook.Container{ID: id, Bundle: e.bundleDir(id), Spec: new(specs.Spec), Keeper: e.Keeper}
	if err := statefile.Read(filepath.Join(c.Bundle, "config.json"), c.Spec); err != nil {
		return nil, err
	}
	c.Rootfs = c.Spec.Root.Path
	return c, nil
}

// RunHooks runs the hooks of a phase for a container whose process waits for them.
func (e *Engine) RunHooks(ctx context.Context, id, phase, process string) error {
	c, err := e.hooks(id)
	if err != nil {
		return err
	}
	if c.PID, err = strconv.Atoi(process); err != nil {
		return worded(errdefs.ErrInvalidArgument, "process %q", process)
	}
	fd, err := unix.PidfdOpen(c.PID, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", c.PID, err)
	}
	c.PIDFD = os.NewFile(uintptr(fd), "pidfd")
	defer c.PIDFD.Close()
	rec, err := e.load(id)
	if err != nil {
		return err
	}
	if c.Group, err = e.cgroup(rec); err != nil {
		return err
	}
	c.Env = c.Spec.Process.Env
	for _, ph := range phases {
		if ph.name != phase {
			continue
		}
		for _, at := range ph.points {
			if err := c.Run(ctx, at); err != nil {
				return err
			}
		}
		return nil
	}
	return worded(errdefs.ErrInvalidArgument, "no phase %q", phase)
}

// poststop runs the last hooks of a run, for which it is too late to fail.
func (e *Engine) poststop(ctx context.Context, c *Container) {
	if len(hook.Poststop.Of(c.Options.Hooks)) == 0 {
		return
	}
	h, err := e.hooks(c.ID)
	if err != nil { // it has not run since
		return
	}
	for _, line := range h.RunAll(ctx, hook.Poststop) {
		fmt.Fprintln(os.Stderr, line)
	}
}
