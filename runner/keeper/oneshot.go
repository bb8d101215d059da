package keeper

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// Orphan is a process that was started by a keeper which does not stay: its parent is
// then the nearest subreaper above the caller, prctl(2), or the init of the host. That is
// what callers of an OCI runtime expect.
type Orphan struct {
	*launch.Child
	c      *conn
	keeper *os.File
}

// Launcher is a keeper that waits for a program: [Launcher.Launch] gives it one, Close ends
// it. Its own start takes as long as compiling the program does, and goes on beside it.
type Launcher struct {
	started chan struct{}
	c       *conn
	err     error
}

// NewLauncher begins to start such a keeper.
func NewLauncher(binary func() (*Binary, error)) *Launcher {
	l := &Launcher{started: make(chan struct{})}
	go func() {
		defer close(l.started)
		b, err := binary()
		if err == nil {
			l.c, err = b.spawn(os.Stderr, "launch")
		}
		l.err = err
	}()
	return l
}

// Close ends a keeper that was given nothing. After Launch it does nothing.
func (l *Launcher) Close() error {
	<-l.started
	if l.c == nil {
		return nil
	}
	return l.c.Close()
}

// PID is the keeper's, until Launch. What control group it is in, the process will be born in.
func (l *Launcher) PID() (int, error) {
	if <-l.started; l.err != nil {
		return 0, l.err
	}
	return l.c.pid, nil
}

// Launch starts a program by the keeper, which then waits until the caller has written down
// what it needs. [Orphan.Leave] or [Orphan.Close] must be called; if the caller is killed
// before, the process is killed. It can be called once.
func (l *Launcher) Launch(p *launch.Program, files []*os.File) (*Orphan, error) {
	program, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%d files for a process: %w", len(files), errdefs.ErrInvalidArgument)
	}
	if <-l.started; l.err != nil {
		return nil, l.err
	}
	c := l.c
	l.c = nil
	o, err := ask(c, program, files)
	if err != nil {
		c.Close()
	}
	return o, err
}

func ask(c *conn, program []byte, files []*os.File) (*Orphan, error) {
	err := c.writeJSON(frameRequest, request{Op: "launch", Files: len(files)}, files...)
	if err == nil {
		err = c.write(frameProgram, program)
	}
	if err != nil {
		return nil, gone(err)
	}
	r, err := c.readReply()
	if err != nil {
		return nil, err
	}
	n := 2
	for _, more := range []bool{r.File, r.More} {
		if more {
			n++
		}
	}
	got, err := c.takeFiles(n)
	if err != nil {
		return nil, err
	}
	o := &Orphan{Child: &launch.Child{PID: r.PID, PIDFD: got[0]}, c: c, keeper: got[1]}
	if got = got[2:]; r.File {
		o.Console, got = got[0], got[1:]
	}
	if r.More {
		o.Listener = got[0]
	}
	return o, nil
}

// Leave lets the process live and returns when its keeper is gone.
func (o *Orphan) Leave() error {
	if err := o.c.write(frameDone, nil); err != nil {
		return errors.Join(gone(err), o.Close())
	}
	return o.end()
}

// Close kills the process, unless Leave was called, and returns when its keeper is gone.
// The files of the process stay open.
func (o *Orphan) Close() error {
	if o.keeper == nil {
		return nil
	}
	o.Signal(unix.SIGKILL) // its keeper may be gone
	return o.end()
}

func (o *Orphan) end() error {
	o.c.c.CloseWrite()
	pollExit(descriptor(o.keeper))
	o.keeper.Close()
	o.keeper = nil
	return o.c.Close()
}

// oneshot is the process of such a keeper.
func oneshot(c *conn) int {
	_, child, err := startChild(c, c.readFrame())
	if err != nil {
		c.writeJSON(frameReply, failure(err))
		return 1
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		child.Signal(unix.SIGKILL)
		c.writeJSON(frameReply, failure(fmt.Errorf("pidfd_open: %w", err)))
		return 1
	}
	files := []*os.File{child.PIDFD, os.NewFile(uintptr(self), "keeper")}
	if child.Console != nil {
		files = append(files, child.Console)
	}
	if child.Listener != nil {
		files = append(files, child.Listener)
	}
	err = c.writeJSON(frameReply, reply{PID: child.PID, File: child.Console != nil, More: child.Listener != nil}, files...)
	if err == nil {
		if kind, _, err := c.read(); err == nil && kind == frameDone {
			return 0
		}
	}
	child.Signal(unix.SIGKILL)
	child.Wait()
	return 1
}
