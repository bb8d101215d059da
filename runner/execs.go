package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// ExecInfo is what is known of a command that was made to be executed in a container.
type ExecInfo struct {
	ID, ContainerID string
	Options         ExecOptions
	DetachKeys      string            `json:",omitempty"`
	Process         statefile.Process `json:",omitzero"` // as the host sees it; zero until it has been started
	Running         bool              `json:"-"`
	Pid             int               `json:"-"`
	ExitCode        *int              `json:"-"` // nil until it has ended
}

// A noted command is two files in a directory of its container: ID.json, this record, and
// ID.end, which the keeper writes. They outlive the run, for clients ask for the exit code of
// a command that ended with its container, until the container is started again or removed.

func (e *Engine) execs() string                   { return filepath.Join(e.RunRoot, "execs") }
func (e *Engine) execDir(container string) string { return filepath.Join(e.execs(), container) }

func (e *Engine) execFile(container, id string) string {
	return filepath.Join(e.execDir(container), id+".json")
}

func (e *Engine) execEnd(container, id string) string {
	return filepath.Join(e.execDir(container), id+".end")
}

// ExecCreate notes a command for a running container and returns its ID. One that has ended
// is forgotten some time later. detachKeys are only remembered.
func (e *Engine) ExecCreate(ctx context.Context, ref string, o ExecOptions, detachKeys string) (id string, err error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return "", err
	}
	if err := canExec(c, ref); err != nil {
		return "", err
	}
	if o.User != "" { // one that is not there is known now
		if _, _, err := e.execProcess(ctx, c, o); err != nil {
			return "", err
		}
	}
	x := ExecInfo{ID: newID(), ContainerID: c.ID, Options: o, DetachKeys: detachKeys}
	if err := os.MkdirAll(e.execDir(c.ID), 0o700); err != nil {
		return "", err
	}
	if err := statefile.Write(e.execFile(c.ID, x.ID), &x, statefile.WriteOptions{}); err != nil {
		return "", err
	}
	if _, err := os.Stat(e.dir(c.ID)); errors.Is(err, fs.ErrNotExist) { // who removed it did not see the record
		return "", errors.Join(noSuchContainer(ref), os.RemoveAll(e.execDir(c.ID)))
	}
	if rand.N(sweepOneIn) == 0 {
		if err := e.sweepExecs(c.ID, time.Now().Add(-keepExec)); err != nil {
			return "", err
		}
	}
	e.tellExec(c, "exec_create", o.Args, x.ID)
	return x.ID, nil
}

func (e *Engine) readExec(id string) (x ExecInfo, err error) {
	if !isHex(id) || len(id) != 64 {
		return x, noSuchExec(id)
	}
	containers, err := os.ReadDir(e.execs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return x, err
	}
	for _, c := range containers {
		if x, err := e.readExecOf(c.Name(), id); !errdefs.IsNotFound(err) {
			return x, err
		}
	}
	return x, noSuchExec(id)
}

func (e *Engine) readExecOf(container, id string) (x ExecInfo, err error) {
	err = statefile.Read(e.execFile(container, id), &x)
	if errdefs.IsNotFound(err) {
		err = noSuchExec(id)
	}
	return x, err
}

func noSuchExec(id string) error {
	return worded(errdefs.ErrNotFound, "No such exec instance: %s", id)
}

// keepExec is how long the exit code of a command is kept, as in docker; every sweepOneIn-th
// new one looks for those that are older.
const (
	keepExec   = 5 * time.Minute
	sweepOneIn = 64
)

// sweepExecs forgets the commands of a container that ended before a time.
func (e *Engine) sweepExecs(container string, before time.Time) error {
	entries, err := os.ReadDir(e.execDir(container))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		id, ended := strings.CutSuffix(entry.Name(), ".end")
		if info, err := entry.Info(); !ended || err != nil || !info.ModTime().Before(before) {
			continue
		}
		// The end last: with it goes what says that the rest is to go.
		for _, file := range []string{e.execFile(container, id), e.execFile(container, id) + ".lock", e.execEnd(container, id)} {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// ExecStartOptions change how a noted command is started.
type ExecStartOptions struct {
	Detach        bool   // its output is thrown away, and nobody waits
	Columns, Rows uint16 // of its terminal; 0: unknown
}

// ExecStart starts a noted command, which can be done once. With Detach the result has no
// streams. An unknown ID is an errdefs.ErrNotFound, a second start an errdefs.ErrConflict.
func (e *Engine) ExecStart(ctx context.Context, id string, o ExecStartOptions) (*Exec, error) {
	x, err := e.readExec(id)
	if err != nil {
		return nil, err
	}
	unlock, ok, err := statefile.TryLock(e.execFile(x.ContainerID, id)+".lock", statefile.LockOptions{})
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, worded(errdefs.ErrConflict, "exec command %s is being started", id)
	}
	defer unlock()
	if x, err = e.readExecOf(x.ContainerID, id); err != nil {
		return nil, err
	}
	if x.Process.PID != 0 {
		return nil, worded(errdefs.ErrConflict, "exec command %s has already run", id)
	}
	c, err := e.Get(ctx, x.ContainerID)
	if err != nil {
		return nil, err
	}
	opts := x.Options
	if o.Detach {
		opts.Stdin, opts.Output = false, false
	}
	if o.Columns > 0 {
		opts.Columns, opts.Rows = o.Columns, o.Rows
	}
	p, err := e.exec(ctx, c, opts, keeper.ExecOptions{ID: id, Record: e.execEnd(c.ID, id), Detach: o.Detach})
	var launch *keeper.LaunchError
	if errors.As(err, &launch) { // its clients ask for the exit code all the same
		end := keeper.ExecEnd{ExitCode: launch.Code}
		statefile.Write(e.execEnd(c.ID, id), &end, statefile.WriteOptions{})
	}
	if err != nil {
		return nil, err
	}
	// One that has ended already has a pid all the same: that says it was started.
	if x.Process, err = statefile.Identify(p.PID); err != nil {
		x.Process.PID = p.PID
	}
	if err := statefile.Write(e.execFile(c.ID, id), &x, statefile.WriteOptions{}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.Close()
		return nil, err
	}
	e.consoles.Store(id, p)
	p.forget = func() { e.consoles.Delete(id) }
	return p, nil
}

// ExecInspect tells of a noted command.
func (e *Engine) ExecInspect(ctx context.Context, id string) (ExecInfo, error) {
	x, err := e.readExec(id)
	if err != nil {
		return x, err
	}
	x.Pid = x.Process.PID
	var end keeper.ExecEnd
	if statefile.Read(e.execEnd(x.ContainerID, id), &end) == nil {
		x.ExitCode = &end.ExitCode
		return x, nil
	}
	if x.Pid == 0 {
		return x, nil
	}
	if x.Running = x.Process.Alive(); !x.Running {
		// Its keeper died before it, or is about to write.
		unknown := 137
		if statefile.Read(e.execEnd(x.ContainerID, id), &end) == nil {
			unknown = end.ExitCode
		}
		x.ExitCode = &unknown
	}
	return x, nil
}

// startTime is how long a resize waits for the start of its command; moby's daemon/resize.go.
const startTime = 10 * time.Second

// ExecResize sets the size of the terminal of a noted command that runs, or is about to: clients tell it beside
// the start.
func (e *Engine) ExecResize(ctx context.Context, id string, columns, rows uint16) error {
	x, err := e.ExecInspect(ctx, id)
	for end := time.Now().Add(startTime); err == nil && x.Pid == 0 && x.ExitCode == nil && time.Now().Before(end); {
		select {
		case <-time.After(10 * time.Millisecond):
			x, err = e.ExecInspect(ctx, id)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err != nil {
		return err
	}
	if !x.Running {
		return worded(errdefs.ErrConflict, "exec process is not running: %s", id)
	}
	if p, ok := e.consoles.Load(id); ok {
		return p.(*Exec).Resize(columns, rows)
	}
	if !x.Options.TTY {
		return nil
	}
	err = resizeTerminalOf(x.Pid, columns, rows)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return worded(errdefs.ErrConflict, "exec process is not running: %s", id)
	}
	return err
}

// resizeTerminalOf sets the size of the terminal that is a process's standard input. Its
// other end is with another process of ours.
func resizeTerminalOf(pid int, columns, rows uint16) error {
	// What the process has there may be anything: it is opened only if it is a terminal.
	held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/0", pid), unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer held.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(held.Fd()), &st); err != nil {
		return err
	}
	if major := unix.Major(st.Rdev); st.Mode&unix.S_IFMT != unix.S_IFCHR || major < firstPtsMajor || major > lastPtsMajor {
		return worded(errdefs.ErrConflict, "process %d has left its terminal", pid)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	return unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
}

// The major numbers of a pseudo terminal's ends that programs use (devices.txt of Linux).
const firstPtsMajor, lastPtsMajor = 136, 143

// execIDs are the noted commands of a container that have not ended.
func (e *Engine) execIDs(container string) []string {
	found, _ := filepath.Glob(e.execFile(container, "*"))
	var ids []string
	for _, file := range found {
		id := strings.TrimSuffix(filepath.Base(file), ".json")
		if _, err := os.Lstat(e.execEnd(container, id)); err != nil {
			ids = append(ids, id)
		}
	}
	return ids
}
