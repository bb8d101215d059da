package op

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/spec"
)

// A running is a process in a container of this machine.
type running struct {
	b    keeper.Begun
	jobs *keeper.Jobs
	spec *specs.Spec // of the container
	at   *place
	init *keeper.Begun // the container's first process; nil: this is it
}

var _ Running = (*running)(nil)

var errEnded = fmt.Errorf("the container has ended: %w", errdefs.ErrFailedPrecondition)

// Signal implements Running. A process that has ended is no error: who sends a signal cannot know.
func (r *running) Signal(s unix.Signal) error {
	if err := launch.SignalPIDFD(r.b.PIDFD, s); err != nil && err != unix.ESRCH {
		return fmt.Errorf("pidfd_send_signal: %w", err)
	}
	return nil
}

// Resize implements Running.
func (r *running) Resize(columns, rows uint16) error {
	if r.b.Console == nil {
		return fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	raw, err := r.b.Console.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("ioctl TIOCSWINSZ", failed)
}

// first is the container's first process.
func (r *running) first() keeper.Begun {
	if r.init != nil {
		return *r.init
	}
	return r.b
}

// Root implements Running.
func (r *running) Root() (*rootfs.Dir, error) {
	first := r.first()
	root, err := rootfs.Open(fmt.Sprintf("/proc/%d/root", first.PID))
	if err != nil {
		return nil, errEnded
	}
	if err := launch.SignalPIDFD(first.PIDFD, 0); err != nil { // then the number may be another's
		root.Close()
		return nil, errEnded
	}
	return root, nil
}

// Exec implements Running.
func (r *running) Exec(ctx context.Context, p Process) error {
	root, err := r.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	process, err := r.process(p, root)
	if err != nil {
		return err
	}
	program, err := oci.CompileExec(r.spec, process, oci.ExecOptions{CgroupProcs: r.at.group.Joins(), CgroupDir: r.at.group.V2Dir()})
	if err != nil {
		return err
	}
	first := r.first()
	job := p.job(program, process.User)
	job.Files = []*os.File{first.PIDFD}
	if p.Begun != nil {
		job.Begun = func(b keeper.Begun) { p.Begun(&running{b: b, jobs: r.jobs, spec: r.spec, at: r.at, init: &first}) }
	}
	return ended(r.jobs.Run(ctx, job))
}

// process is p in the container. As in BuildKit, its environment is its own, and its user the container's unless it
// says another.
func (r *running) process(p Process, root *rootfs.Dir) (*specs.Process, error) {
	s, first := *r.spec, *r.spec.Process
	first.Env = slices.DeleteFunc(slices.Clone(first.Env), func(v string) bool { return !strings.HasPrefix(v, "HOME=") })
	s.Process = &first
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", r.first().PID))
	if err != nil {
		return nil, errEnded
	}
	return spec.NewExec(&s, spec.ExecOptions{
		Args: p.Args, Env: p.Env, WorkingDir: p.Cwd, User: p.User, TTY: p.TTY, Privileged: p.Insecure, Files: root, Limits: limits,
	})
}
