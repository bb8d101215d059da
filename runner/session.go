package runner

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/keeper"
)

// Session is a client's hold on a container's streams. If the keeper dies meanwhile, it
// goes on with the next one.
type Session struct {
	engine  *Engine
	id      string
	claimed bool // finishing is ours
	options keeper.AttachOptions

	mu       sync.Mutex
	stream   *keeper.Stream
	detached bool
	inputEnd bool // there is no more input, and the next keeper is to know it too
	left     bool // nobody wants a stream any more, whichever comes
}

func newSession(e *Engine, c *Container, s *keeper.Stream, o keeper.AttachOptions) *Session {
	return &Session{engine: e, id: c.ID, claimed: true, options: o, stream: s}
}

// resumed returns the session of a container that was started by a keeper that has died since.
// Nothing of its output has been seen.
func (e *Engine) resumed(ctx context.Context, c *Container, o StartOptions) (*Session, error) {
	if o.Attach == nil {
		return nil, nil
	}
	s := newSession(e, c, new(keeper.Stream), *o.Attach)
	for {
		now, err := e.current(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		if ended(now.State) {
			return nil, worded(errdefs.ErrUnavailable, "container %s was started and has ended, but nobody saw it: see its log", c.ID)
		}
		err = s.connect(ctx)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, errdefs.ErrConflict) {
			return nil, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Attach connects to a running container's streams, from now on.
func (e *Engine) Attach(ctx context.Context, ref string, o keeper.AttachOptions) (*Session, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch c.State.Status {
	case keeper.Paused:
		return nil, worded(errdefs.ErrConflict, "You cannot attach to a paused container, unpause it first")
	case keeper.Running, keeper.Restarting:
	default:
		return nil, worded(errdefs.ErrConflict, "You cannot attach to a stopped container, start it first")
	}
	s := &Session{engine: e, id: c.ID, options: o}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	e.tell(c, "attach", nil)
	return s, nil
}

func (s *Session) connect(ctx context.Context) error {
	o := s.options
	if old := s.current(); old != nil {
		o.Resume, o.At = true, old.At()
	}
	stream, err := keeper.At(s.engine.runDir(s.id)).Attach(ctx, o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = stream
	if s.inputEnd {
		stream.Stdin().Close() // what comes of it Copy will see
	}
	if s.left {
		stream.Close()
	}
	return nil
}

// leave ends Copy, also one that is about to go on with another keeper.
func (s *Session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	s.stream.Close()
}

func (s *Session) current() *keeper.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream
}

// Write gives input to the container. While there is no keeper it waits for the next.
func (s *Session) Write(b []byte) (n int, err error) {
	for range 250 {
		stream := s.current()
		k, err := stream.Stdin().Write(b[n:])
		n += k
		if err == nil || s.isDetached() {
			return n, err
		}
		for range 10 {
			if s.current() != stream {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	return n, io.ErrClosedPipe
}

func (s *Session) isDetached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.detached
}

// CloseInput tells the container that there is no more input.
func (s *Session) CloseInput() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inputEnd = true
	return s.stream.Stdin().Close()
}

// Resize sets the size of the container's terminal.
func (s *Session) Resize(ctx context.Context, columns, rows uint16) error {
	return keeper.At(s.engine.runDir(s.id)).Resize(ctx, columns, rows)
}

// Detach ends the session; Copy returns io.EOF and the container goes on.
func (s *Session) Detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detached, s.left = true, true
	s.stream.Detach()
	s.stream.Close()
}

// Copy writes the container's output until it ends or the session is detached (io.EOF).
// After the end, what the session's owner claimed to finish has been finished.
func (s *Session) Copy(ctx context.Context, stdout, stderr io.Writer) (keeper.ExitStatus, error) {
	defer context.AfterFunc(ctx, s.leave)()
	for {
		status, err := s.current().Copy(stdout, stderr)
		switch {
		case s.isDetached():
			return status, io.EOF
		case ctx.Err() != nil:
			return status, ctx.Err()
		case err == nil:
			return status, s.finish(ctx, status)
		case !errors.Is(err, errdefs.ErrUnavailable):
			return status, err
		}
		status, over, err := s.reconnect(ctx)
		if over || err != nil {
			return status, err
		}
	}
}

// finish does what was claimed, then lets the keeper go.
func (s *Session) finish(ctx context.Context, status keeper.ExitStatus) error {
	stream := s.current()
	defer stream.Close()
	if !status.Final {
		return nil
	}
	// One who only looks on helps too, so that a container with --rm is gone when attach ends.
	if err := s.engine.Finish(context.WithoutCancel(ctx), s.id); err != nil {
		return err
	}
	if s.claimed {
		stream.Done() // should it fail, the keeper finds that there is nothing to do
	}
	return nil
}

// reconnect looks for the next keeper. over says that the container has ended.
func (s *Session) reconnect(ctx context.Context) (status keeper.ExitStatus, over bool, err error) {
	for {
		c, err := s.engine.current(ctx, s.id)
		if err != nil {
			return status, false, err
		}
		if ended(c.State) {
			status = keeper.ExitStatus{Code: c.State.ExitCode, OOMKilled: c.State.OOMKilled, Error: c.State.Error, Final: true}
			if s.claimed {
				err = s.engine.Finish(context.WithoutCancel(ctx), s.id)
			}
			return status, true, err
		}
		err = s.connect(ctx)
		if err == nil || !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, errdefs.ErrConflict) {
			return status, false, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return status, false, err
		}
	}
}

// Close lets the session go without a word.
func (s *Session) Close() error { return s.current().Close() }
