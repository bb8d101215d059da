package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/spec"
)

// ExecOptions are what somebody wants to execute in a running container.
type ExecOptions struct {
	Args       []string
	Env        []string
	WorkingDir string
	User       string
	TTY        bool
	Stdin      bool // else it is empty
	Output     bool // else it is thrown away
	Privileged bool
	// Columns and Rows are the first size of the terminal; 0: unknown.
	Columns, Rows uint16 `json:",omitempty"`
}

// Exec is a process in a running container with our ends of its streams.
type Exec struct {
	*keeper.Process
	Stdin          *os.File // nil unless asked for; the terminal's with TTY
	Stdout, Stderr *os.File // Stderr is nil with TTY

	forget func()
	tell   func(keeper.ExitStatus) // of its end, once
}

// Wait returns how the process ended. Of one whose keeper has been killed we tell.
func (x *Exec) Wait(ctx context.Context) (keeper.ExitStatus, error) {
	status, err := x.Process.Wait(ctx)
	if err == nil && x.Lost() {
		x.tell(status)
	}
	return status, err
}

// Close stops waiting. The process goes on.
func (x *Exec) Close() error {
	if x.forget != nil {
		x.forget()
	}
	return x.Process.Close()
}

// Exec executes a command in a running container. Its failure to start is a
// [*keeper.LaunchError].
func (e *Engine) Exec(ctx context.Context, ref string, o ExecOptions) (*Exec, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := canExec(c, ref); err != nil {
		return nil, err
	}
	return e.exec(ctx, c, o, keeper.ExecOptions{ID: newID(), Detach: !o.Output && !o.Stdin})
}

// canExec says why nothing can be executed in a container.
func canExec(c *Container, ref string) error {
	switch c.State.Status {
	case keeper.Running:
		return nil
	case keeper.Paused:
		return worded(errdefs.ErrConflict, "Container %s is paused, unpause the container before exec", ref)
	case keeper.Restarting:
		return worded(errdefs.ErrConflict, "Container %s is restarting, wait until the container is running", ref)
	}
	return notRunning(c)
}

// exec executes a command. k.ID is told in its events.
func (e *Engine) exec(ctx context.Context, c *Container, o ExecOptions, ko keeper.ExecOptions) (*Exec, error) {
	if err := canExec(c, c.Name); err != nil {
		return nil, err
	}
	s, process, err := e.execProcess(ctx, c, o)
	if err != nil {
		return nil, err
	}
	if ko.Record == "" { // else it was told when it was noted
		e.tellExec(c, "exec_create", o.Args, ko.ID)
	}
	e.tellExec(c, "exec_start", o.Args, ko.ID) // as docker: also of one that then fails
	g, err := e.cgroup(c)
	if err != nil {
		return nil, err
	}
	program, err := oci.CompileExec(s, process, oci.ExecOptions{CgroupProcs: g.Joins(), CgroupDir: g.V2Dir()})
	if err != nil {
		return nil, err
	}
	uid, gid := c.UserIDs.outside(int(process.User.UID), int(process.User.GID))
	x, theirs, err := execStreams(o, uid, gid, e.runDir(c.ID), c.MountLabel)
	if err != nil {
		return nil, err
	}
	for _, end := range []*os.File{x.Stdout, x.Stderr} {
		if end != nil {
			ko.Ends = append(ko.Ends, end)
		}
	}
	err = e.ask(ctx, c, func(k *keeper.Client) (err error) {
		x.Process, err = k.Exec(ctx, program, theirs, ko)
		return err
	})
	closeFiles(theirs)
	if err != nil {
		err = e.endedMeanwhile(ctx, c, err)
		var failed *keeper.LaunchError
		if errors.As(err, &failed) && failed.Code == 125 {
			failed.Code = 126 // docker's for an exec whose command is not to blame, such as -w of what is not there
		}
		closeFiles([]*os.File{x.Stdin, x.Stdout, x.Stderr})
		return nil, err
	}
	var once sync.Once
	x.tell = func(status keeper.ExitStatus) {
		once.Do(func() {
			e.tell(c, "exec_die", map[string]string{"execID": ko.ID, "exitCode": strconv.Itoa(status.Code)})
		})
	}
	if o.TTY && x.Console != nil {
		return x, x.useConsole()
	}
	return x, nil
}

// endedMeanwhile is the error of an exec that failed, whatever with, because the container's
// process has ended.
func (e *Engine) endedMeanwhile(ctx context.Context, c *Container, err error) error {
	root, now, e2 := e.runningRoot(ctx, c)
	if errdefs.IsNotFound(e2) {
		return e2
	}
	if e2 != nil {
		return err
	}
	if root != nil {
		root.Close()
	}
	if now.State.Init != c.State.Init { // and another has been started since
		return notRunning(c)
	}
	return cmp.Or(canExec(now, now.Name), err)
}

// execProcess makes the process by the container's spec, which is made again: it follows
// from the record, except for the paths of namespaces, which the process joins anyway.
func (e *Engine) execProcess(ctx context.Context, c *Container, o ExecOptions) (*specs.Spec, *specs.Process, error) {
	root, c, err := e.runningRoot(ctx, c)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the root of the container: %w", err)
	}
	if root == nil { // its process has ended meanwhile
		return nil, nil, cmp.Or(canExec(c, c.Name), notRunning(c))
	}
	defer root.Close()
	netns := ""
	if c.Options.networkMode() == "host" {
		netns = "host"
	}
	own := *c
	own.Options.TTY = o.TTY // TERM tells of the command's own terminal
	s, _, err := e.specOn(root, &own, joined{net: netns, pid: c.Options.ownPID()})
	if err != nil {
		return nil, nil, err
	}
	limits, _ := statefile.ReadFile(fmt.Sprintf("/proc/%d/limits", c.State.Init.PID), 16<<10)
	p, err := spec.NewExec(s, spec.ExecOptions{
		Args: o.Args, Env: o.Env, WorkingDir: o.WorkingDir, User: o.User, TTY: o.TTY,
		Privileged: o.Privileged, Files: root, Limits: limits,
	})
	if err == nil && o.TTY && o.Columns > 0 {
		p.ConsoleSize = &specs.Box{Width: uint(o.Columns), Height: uint(o.Rows)}
	}
	return s, p, err
}

func (e *Engine) snapshot(id string) (sn snapshot.Snapshot, err error) {
	store, err := e.Store()
	if err != nil {
		return sn, err
	}
	return store.Snapshots.Get(id)
}

// execStreams makes the pipes of a process without a terminal: our own terminal and files
// never become the container's. dir and label are those of [keeper.Pipe].
func execStreams(o ExecOptions, uid, gid int, dir, label string) (x *Exec, theirs []*os.File, err error) {
	x = &Exec{}
	defer func() {
		if err != nil {
			closeFiles(append(theirs, x.Stdin, x.Stdout, x.Stderr))
		}
	}()
	for i, use := range []bool{o.Stdin, o.Output, o.Output} {
		if !use || o.TTY {
			null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				return x, theirs, err
			}
			theirs = append(theirs, null)
			continue
		}
		ours, their, err := keeper.Pipe(dir, label)
		if err != nil {
			return x, theirs, err
		}
		if i == 0 {
			ours, their = their, ours
		}
		// So that the process may open /dev/stdout again.
		err = errors.Join(unix.Fchown(their, uid, gid), unix.SetNonblock(ours, true))
		theirs = append(theirs, os.NewFile(uintptr(their), "theirs"))
		*[]**os.File{&x.Stdin, &x.Stdout, &x.Stderr}[i] = os.NewFile(uintptr(ours), "ours")
		if err != nil {
			return x, theirs, err
		}
	}
	return x, theirs, nil
}

// useConsole makes the terminal the streams, with the poller, so that reading it can be
// ended by closing it.
func (x *Exec) useConsole() error {
	fd, err := unix.FcntlInt(x.Console.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	x.Console.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	x.Console = os.NewFile(uintptr(fd), "console")
	x.Stdin, x.Stdout = x.Console, x.Console
	return nil
}

// lateOutput is how long after the end of a process its output is awaited from others, which it
// has left running with its streams; docker's daemon/monitor.go, ProcessEvent.
const lateOutput = 2 * time.Second

// CopyOutput copies what the process writes and returns at the end of that, or lateOutput after
// the process has ended, or when it cannot be written.
func (x *Exec) CopyOutput(ended <-chan struct{}, stdout, stderr io.Writer) error {
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	for _, s := range []struct {
		to   io.Writer
		from *os.File
	}{{stdout, x.Stdout}, {stderr, x.Stderr}} {
		if s.from != nil {
			wg.Go(func() {
				if err := x.copyOutput(s.to, s.from); err != nil {
					failed <- err
				}
			})
		}
	}
	copied := make(chan struct{})
	go func() {
		wg.Wait()
		close(copied)
	}()
	select {
	case <-ended:
	case err := <-failed:
		return err
	case <-copied:
		return firstOf(failed)
	}
	for _, f := range []*os.File{x.Stdout, x.Stderr} {
		if f != nil {
			f.SetReadDeadline(time.Now().Add(lateOutput))
		}
	}
	<-copied
	return firstOf(failed)
}

func firstOf(errs <-chan error) error {
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// copyOutput copies until the end, or until the time is over: then what is there, for whoever
// reads it may have been slow. Its error is that of writing.
func (x *Exec) copyOutput(to io.Writer, from *os.File) error {
	var all io.Reader = from
	if from == x.Console {
		all = launch.ConsoleReader{Master: from}
	}
	_, err := io.Copy(to, all)
	if errors.Is(err, os.ErrClosed) { // by who wants no more
		return nil
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return nil
	}
	var waiting int
	raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	buf := make([]byte, 32<<10)
	for waiting > 0 {
		n := 0
		// By the descriptor, which does not block: what was left running may read from the same stream, and leave
		// less than there was.
		raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf[:min(waiting, len(buf))]) })
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return nil
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		waiting -= n
	}
	return nil
}

// Resize sets the size of the process's terminal.
func (x *Exec) Resize(columns, rows uint16) error {
	if x.Console == nil {
		return nil
	}
	raw, err := x.Console.SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	return errors.Join(e, err)
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
