package op

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
)

// SandboxOptions say what a Sandbox is made of.
type SandboxOptions struct {
	Hostname   string
	Network    pb.NetMode
	ExtraHosts []*pb.HostIP
	Platform   ocispec.Platform
	Mounts     []*pb.Mount // whose inputs are those of Inputs, and which have no output
	Inputs     []Result
}

// A Sandbox is what a RUN has around its command, for processes that somebody starts one after another. The first
// begins the container, which ends with it; the others join it. What they change is nobody's result.
type Sandbox struct {
	run  *execRun
	ctx  context.Context // of the processes
	stop context.CancelFunc
	work sync.WaitGroup // processes and readers

	there, over chan struct{} // the first process runs, and has ended
	first       Running       // once there

	mu     sync.Mutex
	begun  bool // somebody has started the first process
	closed bool
	busy   int // processes
}

// A SandboxProcess is a process to be started in a Sandbox.
type SandboxProcess struct {
	Args, Env      []string
	SecretEnv      []*pb.SecretEnv
	User, Cwd      string // "" for root and /; of further processes, the user of the first
	Security       pb.SecurityMode
	TTY            bool
	Stdin          io.Reader // nil: it is empty. It has to come to an end when Run returns
	Stdout, Stderr io.Writer
	Begun          func(Running) // as that of Process
}

// NewSandbox makes a Sandbox, which is to be closed. Of Mounts there must be one at the root. ctx ends its processes.
func (e *Env) NewSandbox(ctx context.Context, c *solver.Console, o SandboxOptions) (*Sandbox, error) {
	if e.Executor == nil {
		return nil, fmt.Errorf("running a command: %w", errdefs.ErrNotImplemented)
	}
	x := &execOp{env: e, platform: o.Platform, inputs: len(o.Inputs), op: &pb.ExecOp{
		Meta:   &pb.Meta{Cwd: "/", Hostname: o.Hostname, ExtraHosts: o.ExtraHosts},
		Mounts: o.Mounts, Network: o.Network,
	}}
	if err := x.checkMounts(); err != nil {
		return nil, err
	}
	if err := checkPaths(o.Mounts); err != nil {
		return nil, err
	}
	s := &Sandbox{
		run:   &execRun{execOp: x, console: c, inputs: o.Inputs, caches: map[int]*cacheDir{}, views: map[int]*os.File{}},
		there: make(chan struct{}), over: make(chan struct{}),
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	if err := s.run.prepare(s.ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkPaths refuses two mounts at one place, of which a command could see one only.
func checkPaths(mounts []*pb.Mount) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		if m.Dest == "" || strings.IndexByte(m.Dest, 0) >= 0 {
			return fmt.Errorf("mount at %q: %w", m.Dest, errdefs.ErrInvalidArgument)
		}
		if seen[m.Dest] {
			return fmt.Errorf("two mounts at %s: %w", m.Dest, errdefs.ErrInvalidArgument)
		}
		seen[m.Dest] = true
	}
	return nil
}

// Close ends all processes and gives everything back. Only the first call does, and says what went wrong.
func (s *Sandbox) Close() (err error) {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	if closed {
		return nil
	}
	for _, f := range slices.Backward(s.run.release) {
		err = errors.Join(err, f())
	}
	return err
}

var errClosed = fmt.Errorf("the container is closed: %w", errdefs.ErrFailedPrecondition)

// enter begins what Close waits for. first says that it is the first process.
func (s *Sandbox) enter(process bool) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, errClosed
	}
	s.work.Add(1)
	if process {
		s.busy++
	}
	first = process && !s.begun
	s.begun = s.begun || process
	return first, nil
}

// leave ends a process.
func (s *Sandbox) leave() {
	s.mu.Lock()
	s.busy--
	s.mu.Unlock()
	s.work.Done()
}

// Begun says whether somebody has started the first process.
func (s *Sandbox) Begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

// Busy says whether processes run.
func (s *Sandbox) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy > 0
}

// Run runs a process as Executor.Run does.
func (s *Sandbox) Run(ctx context.Context, q SandboxProcess) error {
	p, err := s.process(ctx, q)
	if err != nil {
		return err
	}
	first, err := s.enter(true)
	if err != nil {
		return err
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	if first {
		return s.begin(ctx, p)
	}
	select {
	case <-s.there:
	case <-s.over:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.run.foreign(s.first.Exec(ctx, p))
}

// begin runs the first process.
func (s *Sandbox) begin(ctx context.Context, p Process) error {
	defer close(s.over)
	begun := p.Begun
	p.Begun = func(r Running) {
		s.first = r
		close(s.there)
		if begun != nil {
			begun(r)
		}
	}
	return s.run.foreign(s.run.env.Executor.Run(ctx, p))
}

// process makes what Executor.Run wants.
func (s *Sandbox) process(ctx context.Context, q SandboxProcess) (Process, error) {
	switch q.Security {
	case pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE:
	default:
		return Process{}, fmt.Errorf("invalid security mode %d: %w", q.Security, errdefs.ErrInvalidArgument)
	}
	asked := execOp{env: s.run.env, op: &pb.ExecOp{Security: q.Security, Network: s.run.op.Network}}
	if err := asked.checkEntitlements(); err != nil {
		return Process{}, err
	}
	p := s.run.process
	p.Args, p.Env, p.User, p.Cwd, p.TTY = q.Args, slices.Clone(q.Env), q.User, q.Cwd, q.TTY
	p.Insecure = q.Security == pb.SecurityMode_INSECURE
	p.Stdin, p.Stdout, p.Stderr, p.Begun = q.Stdin, q.Stdout, q.Stderr, q.Begun
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if p.TTY {
		addDefault(&p.Env, "TERM=xterm")
	}
	return p, s.run.env.complete(ctx, &p.Env, q.SecretEnv)
}

// Files opens what is mounted by Mounts[i], as it is now: before the first process, while it runs, or as it has left
// it. release gives it back. Links lead nowhere else.
func (s *Sandbox) Files(i int) (dir *rootfs.Dir, release func(), err error) {
	if _, err := s.enter(false); err != nil {
		return nil, nil, err
	}
	if dir, err = s.files(i); err != nil {
		s.work.Done()
		return nil, nil, err
	}
	return dir, func() { dir.Close(); s.work.Done() }, nil
}

func (s *Sandbox) files(i int) (*rootfs.Dir, error) {
	if i < 0 || i >= len(s.run.op.Mounts) {
		return nil, fmt.Errorf("mount %d of %d: %w", i, len(s.run.op.Mounts), errdefs.ErrInvalidArgument)
	}
	m := s.run.op.Mounts[i]
	if m.Dest == pb.RootMount {
		return s.root()
	}
	if f := s.run.views[i]; f != nil {
		return again(f)
	}
	if !solver.Over(s.there) || solver.Over(s.over) { // what is in memory is the container's
		return nil, fmt.Errorf("nothing is mounted at %s: %w", m.Dest, errdefs.ErrNotFound)
	}
	root, err := s.first.Root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(m.Dest, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}

// root opens the root. An overlay must not be mounted twice: while the container has it, it is looked at there.
func (s *Sandbox) root() (*rootfs.Dir, error) {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		dir, err := s.run.root.before()
		if err != nil {
			return nil, err
		}
		return reopened(dir)
	}
	select {
	case <-s.there:
	case <-s.over:
	case <-s.ctx.Done():
		return nil, errClosed
	}
	if !solver.Over(s.over) {
		if dir, err := s.first.Root(); err == nil {
			return dir, nil
		}
		select {
		case <-s.over: // soon: the process has ended
		case <-s.ctx.Done():
			return nil, errClosed
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, err := s.run.root.open()
	if err != nil {
		return nil, err
	}
	return reopened(dir)
}

// reopened opens a directory once more.
func reopened(d *rootfs.Dir) (*rootfs.Dir, error) {
	f, err := d.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}

// again opens a mount that has no place here once more, where it is a directory.
func again(f *os.File) (*rootfs.Dir, error) {
	fd, err := unix.Openat(int(f.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	return rootfs.FromFile(os.NewFile(uintptr(fd), f.Name())), nil
}
