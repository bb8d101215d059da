package bundle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/systemd"
)

// ExecOptions are what the caller decides.
type ExecOptions struct {
	Stdio
	IgnorePaused bool // start it although it will be frozen at once
	// Cgroups are groups below the container's to start it in: "PATH", or with v1
	// "CONTROLLER[,CONTROLLER]:PATH".
	Cgroups []string
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
		return id, fmt.Errorf("cannot exec in a paused container (use --ignore-paused to override): %w", errdefs.ErrFailedPrecondition)
	}
	if err := checkConsole(p, o.Stdio); err != nil {
		return id, err
	}
	l := keeper.NewLauncher(c.store.keeper)
	defer l.Close()
	conf, err := c.spec()
	if err != nil {
		return id, err
	}
	p.Env = withHome(p.Env, fmt.Sprintf("/proc/%d/root", c.Init.PID), p.User.UID)
	opts := oci.ExecOptions{Preserve: len(o.Extra), KeepGroups: c.KeepGroups, SharedKeyring: c.SharedKeyring, Keyring: c.keyring()}
	if g, err := c.group(); err != nil {
		return id, err
	} else if g != nil {
		if opts.CgroupProcs, opts.CgroupDir, err = subgroups(g, o.Cgroups); err != nil {
			return id, err
		}
	}
	for _, dir := range c.RDT.dirs() {
		opts.CgroupProcs = append(opts.CgroupProcs, filepath.Join(dir, "tasks")) // joined in the same way
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
	files := append(o.Files[:], pidfd)
	if oci.ExecSlots(conf) > len(files) {
		root, err := os.Open(fmt.Sprintf("/proc/%d/root", c.Init.PID))
		if err != nil {
			return id, err
		}
		defer root.Close()
		files = append(files, root)
	}
	err = withProcess(l, program, append(files, o.Extra...), o.Stdio, func(child *keeper.Orphan, started statefile.Process) error {
		id = started
		if child.Listener == nil {
			return nil
		}
		defer child.Listener.Close()
		return c.sendListener(conf, started.PID, child.Listener)
	})
	return id, err
}

// subgroups are the files by which a process joins groups below g. Each wish is "PATH", or
// with v1 "CONTROLLER[,CONTROLLER]:PATH"; no wish is g itself.
func subgroups(g *cgroup.Group, wishes []string) (procs []string, dir string, err error) {
	procs, dir = g.Joins(), g.V2Dir()
	for _, wish := range wishes {
		controllers, sub, some := strings.Cut(wish, ":")
		if !some {
			controllers, sub = "", wish
		}
		if some && dir != "" || slices.Contains(strings.Split(sub, "/"), "..") {
			return nil, "", fmt.Errorf("bad sub cgroup path %q: %w", wish, errdefs.ErrInvalidArgument)
		}
		found := false
		for i, p := range procs {
			of := strings.Split(filepath.Base(strings.TrimSuffix(filepath.Dir(p), g.Path())), ",")
			if some && !slices.ContainsFunc(of, func(name string) bool { return slices.Contains(strings.Split(controllers, ","), name) }) {
				continue
			}
			found = true
			procs[i] = filepath.Join(filepath.Dir(p), sub, filepath.Base(p))
			if _, err := os.Stat(procs[i]); err != nil {
				return nil, "", fmt.Errorf("control group %q: %w", wish, err)
			}
		}
		if !found {
			return nil, "", fmt.Errorf("control group %q: no such controller: %w", wish, errdefs.ErrInvalidArgument)
		}
		if dir != "" {
			dir = filepath.Join(dir, sub)
		}
	}
	return procs, dir, nil
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
	return c.freeze(ctx, true, "container not running", specs.StateRunning, specs.StateCreated)
}

// Resume lets a paused container go on.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, false, "container not paused", Paused)
}

func (c *Container) freeze(ctx context.Context, frozen bool, otherwise string, from ...Status) (err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	status, err := c.Status()
	if err != nil {
		return err
	}
	if !slices.Contains(from, status) {
		return fmt.Errorf("container %s is %s: %s: %w", c.ID, status, otherwise, errdefs.ErrFailedPrecondition)
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
	if status, err := c.Status(); err != nil {
		return nil, err
	} else if status == specs.StateStopped {
		return nil, fmt.Errorf("container %s: container not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	g, err := c.needGroup()
	if err != nil {
		return nil, err
	}
	limits := *r
	limits.Devices = nil // as in runc: they are for those who make the container
	if c.Scope.Unit == "" {
		return g.Update(&limits)
	}
	err = withSystemd(ctx, func(m *systemd.Manager) (err error) {
		warnings, err = g.UpdateTelling(&limits, func(files iter.Seq2[string, string]) (func() error, error) {
			return m.Change(ctx, c.Scope, files)
		})
		return err
	})
	return warnings, err
}

// Stats reads the counters of the container.
func (c *Container) Stats() (cgroup.Stats, error) {
	g, err := c.needGroup()
	if err != nil {
		return cgroup.Stats{}, err
	}
	return g.Stats()
}
