package keeper

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// StartOptions say what the starter wants besides a running container.
type StartOptions struct {
	// Attach, unless nil, sees the container's output from its first byte.
	Attach *AttachOptions
	// Claim: the starter will do the finishing after the final exit and then call
	// [Stream.Done]. If it ends without, the keeper runs Config.Finish.
	Claim bool
}

// AttachOptions choose streams.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
}

// Start makes a keeper and lets it run the program. It returns when the program has
// executed the container's command; a failed step is a [*LaunchError] and leaves no
// keeper behind. The stream is nil unless o asks for one.
func Start(ctx context.Context, b *Binary, cfg Config, p *launch.Program, o StartOptions) (*Stream, error) {
	panic("todo")
}

// Adopt makes sure that a container whose keeper died has one again. It does nothing
// if the keeper lives.
func Adopt(ctx context.Context, b *Binary, runDir string) error { panic("todo") }

// Client talks to the keeper of one container. It holds no connection.
type Client struct{ runDir string }

// Dial returns a client if a keeper lives there, else an errdefs.ErrUnavailable.
func Dial(ctx context.Context, runDir string) (*Client, error) { panic("todo") }

// Attach connects to the container's streams from now on.
func (c *Client) Attach(ctx context.Context, o AttachOptions) (*Stream, error) { panic("todo") }

// Wait returns the status of the final exit, or of the next one if next is set.
func (c *Client) Wait(ctx context.Context, o WaitOptions) (ExitStatus, error) { panic("todo") }

// WaitOptions say which exit to wait for.
type WaitOptions struct {
	Next bool // also one that the restart policy follows
}

// Signal sends a signal to the container's pid 1.
func (c *Client) Signal(ctx context.Context, s unix.Signal) error { panic("todo") }

// Stop ends the container: signal, then SIGKILL after timeout (never if negative). It
// will not be restarted. Stop returns after the final exit.
func (c *Client) Stop(ctx context.Context, s unix.Signal, timeout time.Duration) error {
	panic("todo")
}

// Resize sets the size of the container's terminal.
func (c *Client) Resize(ctx context.Context, columns, rows uint16) error { panic("todo") }

// Pause freezes all processes of the container.
func (c *Client) Pause(ctx context.Context) error { panic("todo") }

// Resume thaws them.
func (c *Client) Resume(ctx context.Context) error { panic("todo") }

// Update changes the restart policy.
func (c *Client) Update(ctx context.Context, p RestartPolicy) error { panic("todo") }

// Exec runs another program. files become its descriptors from 0 on; a program that
// makes a terminal gives its master in [Process.Console].
func (c *Client) Exec(ctx context.Context, p *launch.Program, files []*os.File) (*Process, error) {
	panic("todo")
}

// Process is a program started by [Client.Exec].
type Process struct {
	PID     int
	Console *os.File // master of its terminal, or nil; the caller's
}

// Wait returns how the process ended.
func (p *Process) Wait(ctx context.Context) (ExitStatus, error) { panic("todo") }

// Close stops waiting. The process goes on.
func (p *Process) Close() error { panic("todo") }

// Stream is one client's connection to a container's streams.
type Stream struct{}

// Stdin is the container's standard input. Closing it tells the container its end.
func (s *Stream) Stdin() io.WriteCloser { panic("todo") }

// Resize sets the size of the container's terminal.
func (s *Stream) Resize(columns, rows uint16) error { panic("todo") }

// Copy writes what the container says to stdout and stderr until its final exit. An
// error that is errdefs.ErrUnavailable means that the keeper is gone.
func (s *Stream) Copy(stdout, stderr io.Writer) (ExitStatus, error) { panic("todo") }

// Done tells the keeper that the claimed finishing has been done.
func (s *Stream) Done() error { panic("todo") }

// Close detaches. The container goes on.
func (s *Stream) Close() error { panic("todo") }

// LaunchError is a program that did not come to its execve.
type LaunchError struct {
	Text  string
	Errno unix.Errno
	Code  int // docker's exit code: 125, 126 or 127
}

func (e *LaunchError) Error() string { return e.Text }

// Unwrap gives the errno, or nil.
func (e *LaunchError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}
