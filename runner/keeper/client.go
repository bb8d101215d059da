package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/launch"
)

// StartOptions say what the starter wants besides a running container.
type StartOptions struct {
	// Attach, unless nil, sees the container's output from its first byte.
	Attach *AttachOptions
	// Claim: the starter will do the finishing after the final exit and then call
	// [Stream.Done]. If it ends without, the keeper runs Config.Finish.
	Claim bool
	// Health is the program of the container's health check, if that is a command.
	Health *launch.Program
}

// AttachOptions choose streams.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	// Resume says that the client had been attached to an earlier keeper of the same run, and
	// has got the output before At, in bytes of each stream.
	Resume bool     `json:",omitempty"`
	At     [2]int64 `json:",omitzero"`
}

// Spare is a keeper that waits for its container: [Spare.Start] gives it one, Close ends
// it. Its own start takes as long as preparing a container does, and goes on beside it.
type Spare struct {
	c      *conn
	runDir string
}

// Spare starts a keeper for the container of a run directory, which need not exist yet.
func (b *Binary) Spare(runDir string) (*Spare, error) {
	c, err := b.spawn(nil, "run", runDir)
	if err != nil {
		return nil, err
	}
	return &Spare{c, runDir}, nil
}

// Close ends a keeper that was given nothing. After Start it does nothing.
func (k *Spare) Close() error {
	if k.c == nil {
		return nil
	}
	return k.c.Close()
}

// Start lets the keeper run the program. It returns when the program has executed the
// container's command; a failed step is a [*LaunchError] and leaves no keeper behind. The
// stream is nil unless o asks for one. cfg.RunDir is the one the keeper was made for.
func (k *Spare) Start(ctx context.Context, cfg Config, p *launch.Program, o StartOptions) (*Stream, error) {
	if cfg.RunDir != k.runDir {
		return nil, fmt.Errorf("a keeper for %s got a container of %s: %w", k.runDir, cfg.RunDir, errdefs.ErrInvalidArgument)
	}
	program, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(k.runDir, programName), program, 0o600); err != nil {
		return nil, err
	}
	if o.Health != nil {
		b, err := o.Health.MarshalBinary()
		if err == nil {
			err = os.WriteFile(filepath.Join(k.runDir, healthProgramName), b, 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := statefile.Write(filepath.Join(k.runDir, configName), &cfg, statefile.WriteOptions{}); err != nil {
		return nil, err
	}
	q := request{Op: "start", Stream: o.Attach != nil || o.Claim, Claim: o.Claim}
	if o.Attach != nil {
		q.Attach = *o.Attach
	}
	c := k.c
	k.c = nil
	if err := c.ask(ctx, q); err != nil {
		c.Close()
		return nil, withKeeperOutput(k.runDir, err)
	}
	if !q.Stream {
		return nil, c.Close()
	}
	return newStream(c), nil
}

// Adopt makes sure that a container whose keeper died has one again. It does nothing
// if the keeper lives.
func Adopt(ctx context.Context, b *Binary, runDir string) error {
	c, err := b.spawn(nil, "adopt", runDir)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.c.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := c.readReply(); err != nil {
		return withKeeperOutput(runDir, errOr(ctx.Err(), err))
	}
	return nil
}

// Lives reports whether a keeper has the container of a run directory: also one that is just
// starting it, or has not yet ended after it.
func Lives(runDir string) (bool, error) {
	unlock, ok, err := statefile.TryLock(filepath.Join(runDir, lockName), statefile.LockOptions{})
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || !ok {
		return !ok, err
	}
	return false, unlock()
}

// withKeeperOutput adds what a keeper that vanished has said.
func withKeeperOutput(runDir string, err error) error {
	if !errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	f, e := os.Open(filepath.Join(runDir, complaintsName))
	if e != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 2048)
	if n, _ := f.Read(b); n > 0 {
		return fmt.Errorf("%w; it said: %s", err, b[:n])
	}
	return err
}

// ask sends a request and waits for its reply until ctx ends.
func (c *conn) ask(ctx context.Context, q request) error {
	if err := c.writeJSON(frameRequest, q); err != nil {
		return gone(err)
	}
	_, err := c.answer(ctx)
	return err
}

func (c *conn) answer(ctx context.Context) (reply, error) {
	stop := context.AfterFunc(ctx, func() { c.c.SetReadDeadline(time.Unix(1, 0)) })
	r, err := c.readReply()
	if !stop() {
		return r, ctx.Err()
	}
	return r, err
}

// Client talks to the keeper of one container, by a connection for each request. Where no keeper
// lives, requests end with ErrNoAnswer.
type Client struct{ runDir string }

// At returns the client of the keeper whose files are in runDir.
func At(runDir string) *Client { return &Client{runDir} }

func (k *Client) connect() (*conn, error) {
	dir, err := unix.Open(k.runDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, unavailable(&os.PathError{Op: "open", Path: k.runDir, Err: err})
	}
	defer unix.Close(dir)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, socketName)})
	if err != nil {
		return nil, unavailable(err)
	}
	return newConn(c), nil
}

// ErrNoAnswer is the errdefs.ErrUnavailable of a request that no keeper has received, so
// that it can be made again.
var ErrNoAnswer = fmt.Errorf("no keeper answers: %w", errdefs.ErrUnavailable)

func unavailable(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return err
}

// command sends a request and returns when it has been answered.
func (k *Client) command(ctx context.Context, q request) error {
	c, err := k.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.ask(ctx, q)
}

// Attach connects to the container's streams from now on until its next exit.
func (k *Client) Attach(ctx context.Context, o AttachOptions) (*Stream, error) {
	c, err := k.connect()
	if err != nil {
		return nil, err
	}
	if err := c.writeJSON(frameRequest, request{Op: "attach", Attach: o}); err != nil {
		c.Close()
		return nil, gone(err)
	}
	r, err := c.answer(ctx)
	if err != nil {
		c.Close()
		return nil, err
	}
	s := newStream(c)
	s.at = r.At
	return s, nil
}

// Wait returns the status of the next exit, or of the last if nothing runs any more. An
// errdefs.ErrUnavailable means that the keeper has gone, and the state tells more.
func (k *Client) Wait(ctx context.Context) (ExitStatus, error) {
	c, err := k.connect()
	if err != nil {
		return ExitStatus{}, err
	}
	defer c.Close()
	if err := c.writeJSON(frameRequest, request{Op: "wait"}); err != nil {
		return ExitStatus{}, gone(err)
	}
	return c.exitStatus(ctx)
}

// exitStatus waits for the frame with one.
func (c *conn) exitStatus(ctx context.Context) (ExitStatus, error) {
	defer context.AfterFunc(ctx, func() { c.c.SetReadDeadline(time.Unix(1, 0)) })()
	kind, payload, err := c.read()
	if err != nil {
		return ExitStatus{}, errOr(ctx.Err(), gone(err))
	}
	var e ExitStatus
	if kind != frameExit {
		return e, fmt.Errorf("frame %q instead of an exit status: %w", kind, errdefs.ErrInternal)
	}
	return e, coldjson.Unmarshal(payload, &e)
}

// SignalOptions change what Signal means.
type SignalOptions struct {
	Final bool // it is meant to end the container, which shall not be restarted
}

// Signal sends a signal to the container's pid 1.
func (k *Client) Signal(ctx context.Context, s unix.Signal, o SignalOptions) error {
	return k.command(ctx, request{Op: "signal", Signal: int(s), Final: o.Final})
}

// Stop ends the container: signal, then SIGKILL after timeout (never if negative). It
// will not be restarted. Stop returns after the final exit.
func (k *Client) Stop(ctx context.Context, s unix.Signal, timeout time.Duration) error {
	return k.command(ctx, request{Op: "stop", Signal: int(s), Millis: timeout.Milliseconds()})
}

// Down is Stop because the machine goes down: for restart policies nobody has stopped the container.
func (k *Client) Down(ctx context.Context, s unix.Signal, timeout time.Duration) error {
	return k.command(ctx, request{Op: "stop", Signal: int(s), Millis: timeout.Milliseconds(), Down: true})
}

// Resize sets the size of the container's terminal.
func (k *Client) Resize(ctx context.Context, columns, rows uint16) error {
	return k.command(ctx, request{Op: "resize", Columns: columns, Rows: rows})
}

// Pause freezes all processes of the container.
func (k *Client) Pause(ctx context.Context) error { return k.command(ctx, request{Op: "pause"}) }

// Resume thaws them.
func (k *Client) Resume(ctx context.Context) error { return k.command(ctx, request{Op: "resume"}) }

// SetRestart replaces the container's restart policy.
func (k *Client) SetRestart(ctx context.Context, p RestartPolicy) error {
	return k.command(ctx, request{Op: "policy", Restart: p})
}

// ExecOptions say what a keeper does for a program besides running it.
type ExecOptions struct {
	ID     string // for the event of its end; without one there is none
	Record string // file for an [ExecEnd]; none without a name
	Detach bool   // its terminal, if it has one, stays with the keeper
	// Ends are the caller's ends of its output, and stay the caller's. Who has called reads from them; after that one has
	// gone the keeper does, and throws away what comes, so that the program goes on.
	Ends []*os.File
}

// Exec runs another program. files become its descriptors from 0 on and stay the
// caller's. A program with one slot more gets a pidfd of the container's pid 1 there, and
// one that makes a terminal gives its master in [Process.Console]. The program outlives its caller.
func (k *Client) Exec(ctx context.Context, p *launch.Program, files []*os.File, o ExecOptions) (*Process, error) {
	program, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	c, err := k.connect()
	if err != nil {
		return nil, err
	}
	r, err := c.exec(ctx, program, files, o)
	if err != nil {
		c.Close()
		return nil, err
	}
	n := 1
	if r.File {
		n = 2
	}
	got, err := c.takeFiles(n)
	if err != nil {
		c.Close()
		return nil, err
	}
	e := &Process{PID: r.PID, pidfd: got[0], c: c, record: o.Record}
	if r.File {
		e.Console = got[1]
	}
	return e, nil
}

func (c *conn) exec(ctx context.Context, program []byte, files []*os.File, o ExecOptions) (reply, error) {
	q := request{Op: "exec", Files: len(files), Ends: len(o.Ends), ExecID: o.ID, Record: o.Record, Detach: o.Detach}
	if err := c.writeJSON(frameRequest, q, append(files[:len(files):len(files)], o.Ends...)...); err != nil {
		return reply{}, gone(err)
	}
	if err := c.write(frameProgram, program); err != nil {
		return reply{}, gone(err)
	}
	return c.answer(ctx)
}

// Process is a program started by [Client.Exec].
type Process struct {
	PID     int
	Console *os.File // master of its terminal, or nil; the caller closes it
	pidfd   *os.File
	c       *conn
	record  string // see ExecOptions
	lost    atomic.Bool
}

// Lost says, after Wait, that the keeper was killed before the process ended: nobody has told of its end.
func (p *Process) Lost() bool { return p.lost.Load() }

// Wait returns how the process ended. If its keeper is killed meanwhile, the kernel tells.
func (p *Process) Wait(ctx context.Context) (ExitStatus, error) {
	e, err := p.c.exitStatus(ctx)
	if !errors.Is(err, errdefs.ErrUnavailable) {
		return e, err
	}
	fd := int(p.pidfd.Fd())
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if ctx.Err() != nil {
			return ExitStatus{}, ctx.Err()
		}
		if n > 0 || err != nil && err != unix.EINTR {
			break
		}
	}
	p.lost.Store(true)
	e = adoptedStatus(fd, p.PID)
	if p.record != "" {
		end := ExecEnd{ExitCode: e.Code, Time: time.Now().UTC()}
		if err := statefile.Write(p.record, &end, statefile.WriteOptions{}); !errors.Is(err, os.ErrNotExist) {
			return e, err
		}
	}
	return e, nil
}

// Signal sends a signal to the process. It may be called beside Close.
func (p *Process) Signal(s unix.Signal) error { return launch.SignalPIDFD(p.pidfd, s) }

// Close stops waiting. The process goes on.
func (p *Process) Close() error { return errors.Join(p.pidfd.Close(), p.c.Close()) }
