package engine

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
)

// lives are the containers that somebody waits for to be started. docker's client
// attaches, then waits, then starts; both must see everything from the first byte to the
// exit code of a container that may be gone by then.
type lives struct {
	mu  sync.Mutex
	all map[string]*life // by ID
}

// life is a container's next run.
type life struct {
	clients []*client
	waiters []chan keeper.ExitStatus // each takes one status
}

func (l *lives) change(id string, f func(*life)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.all[id]
	if of == nil {
		of = &life{}
		l.all[id] = of
	}
	f(of)
	if len(of.clients) == 0 && len(of.waiters) == 0 {
		delete(l.all, id)
	}
}

func (l *lives) take(id string) *life {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.all[id]
	delete(l.all, id)
	return of
}

// client is an attached client of a container that has yet to be started.
type client struct {
	options keeper.AttachOptions
	ready   chan struct{} // closed when out is set, or there will be none
	out     output
	session chan *runner.Session // gets the session once the container is started
	done    chan struct{}        // closed when there is no more output

	mu   sync.Mutex
	gone bool // its output is dropped
}

// open gives the client its output, once.
func (c *client) open(out output) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.ready:
	default:
		c.out = out
		close(c.ready)
	}
}

func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
}

// fan writes what a container says to all clients. A client that went is passed over, so
// that it stops neither the container nor the others.
type fan struct {
	clients []*client
	stream  byte
}

func (f fan) Write(b []byte) (int, error) {
	for _, c := range f.clients {
		c.mu.Lock()
		wanted := !c.gone && (f.stream == streamStdout && c.options.Stdout || f.stream == streamStderr && c.options.Stderr)
		c.mu.Unlock()
		if wanted {
			<-c.ready
			if _, err := c.out.stream(f.stream).Write(b); err != nil {
				c.leave()
			}
		}
	}
	return len(b), nil
}

// start starts a container and gives those who wait for it their due.
func (s *Server) start(ctx context.Context, ref string) error {
	c, err := s.Containers.Get(ctx, ref)
	if err != nil {
		return err
	}
	if c.State.Status.GoesOn() {
		if c.State.Status == keeper.Paused {
			return worded(errdefs.ErrConflict, "cannot start a paused container, try unpause instead")
		}
		return worded(errdefs.ErrNotModified, "container is already running")
	}
	l := s.lives.take(c.ID)
	if l == nil {
		_, err = s.Containers.Start(context.WithoutCancel(ctx), c.ID, runner.StartOptions{})
		return s.startFailed(ctx, c, err)
	}
	var o keeper.AttachOptions
	for _, cl := range l.clients {
		o.Stdin = o.Stdin || cl.options.Stdin
		o.Stdout = o.Stdout || cl.options.Stdout
		o.Stderr = o.Stderr || cl.options.Stderr && !c.Options.TTY
	}
	session, err := s.Containers.Start(context.WithoutCancel(ctx), c.ID, runner.StartOptions{Attach: &o})
	if err != nil {
		l.fail(err)
		return s.startFailed(ctx, c, err)
	}
	s.streaming.Go(func() { s.live(l, session) })
	return nil
}

// startFailed removes a container that was to be removed at its end, as docker does: its
// client waits for that.
func (s *Server) startFailed(ctx context.Context, c *runner.Container, err error) error {
	if err == nil || !c.Options.AutoRemove {
		return err
	}
	o := runner.RemoveOptions{Force: true, Volumes: true}
	if e := s.Containers.Remove(context.WithoutCancel(ctx), c.ID, o); e != nil && !errdefs.IsNotFound(e) {
		s.Log.Warn("a container that could not be started was not removed", "container", c.ID, "error", e)
	}
	return err
}

// fail ends the clients of a container that did not start.
func (l *life) fail(err error) {
	status := keeper.ExitStatus{Code: 128, Final: true} // the starter is told why
	var launch *keeper.LaunchError
	if errors.As(err, &launch) {
		status.Code = launch.Code
	}
	l.end(status)
}

func (l *life) end(status keeper.ExitStatus) {
	for _, c := range l.clients {
		close(c.done)
	}
	for _, w := range l.waiters {
		w <- status
	}
}

// live passes a run's output on until its end.
func (s *Server) live(l *life, session *runner.Session) {
	for _, c := range l.clients {
		c.session <- session
	}
	status, err := session.Copy(s.closing, fan{l.clients, streamStdout}, fan{l.clients, streamStderr})
	if err != nil && !errors.Is(err, io.EOF) {
		status.Error = err.Error()
		session.Close()
	}
	l.end(status)
}

// lookEvery is how often the start or the removal of a container is looked for that
// another process may bring about.
const lookEvery = 50 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// nextExit waits for the end of a container's next run, or of the present one.
// begin is called once nothing can be missed any more.
func (s *Server) nextExit(ctx context.Context, c *runner.Container, begin func()) (keeper.ExitStatus, error) {
	own := make(chan keeper.ExitStatus, 1)
	s.lives.change(c.ID, func(l *life) { l.waiters = append(l.waiters, own) })
	defer s.lives.change(c.ID, func(l *life) {
		l.waiters = slices.DeleteFunc(l.waiters, func(w chan keeper.ExitStatus) bool { return w == own })
	})
	since := time.Now()
	before := c.State
	if now, err := s.Containers.Get(ctx, c.ID); err == nil {
		before = now.State
	}
	begin()
	if before.Status.GoesOn() {
		return s.endOf(ctx, c.ID, before.StartedAt)
	}
	if c.State.Status.GoesOn() { // it has ended since it was asked for
		return exitOf(before), nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case status := <-own:
			return status, nil
		case <-ctx.Done():
			return keeper.ExitStatus{}, ctx.Err()
		case <-tick.C:
		}
		now, err := s.Containers.Get(ctx, c.ID)
		switch {
		case errdefs.IsNotFound(err):
			return s.lastWords(ctx, c.ID, since)
		case err != nil:
			return keeper.ExitStatus{}, err
		case s.startedByOthers(c.ID, own) && now.State.Status.GoesOn():
			return s.endOf(ctx, c.ID, since)
		case s.startedByOthers(c.ID, own) && now.State.FinishedAt.After(before.FinishedAt):
			return exitOf(now.State), nil
		}
	}
}

// endOf waits for the end of a container that runs and may be gone right after it.
func (s *Server) endOf(ctx context.Context, id string, since time.Time) (keeper.ExitStatus, error) {
	status, err := s.Containers.Wait(ctx, id)
	if errdefs.IsNotFound(err) {
		return s.lastWords(ctx, id, since)
	}
	return status, err
}

// startedByOthers says whether a run that is seen is not one we get the status of.
func (s *Server) startedByOthers(id string, own chan keeper.ExitStatus) bool {
	s.lives.mu.Lock()
	defer s.lives.mu.Unlock()
	l := s.lives.all[id]
	return l != nil && slices.Contains(l.waiters, own)
}

func exitOf(st keeper.State) keeper.ExitStatus {
	return keeper.ExitStatus{Code: st.ExitCode, OOMKilled: st.OOMKilled, Error: st.Error, Final: true}
}

// lastWords finds the exit code of a container that is gone in the journal of events.
func (s *Server) lastWords(ctx context.Context, id string, since time.Time) (status keeper.ExitStatus, err error) {
	o := runner.EventOptions{Since: since, Until: time.Now(), Filters: map[string][]string{"container": {id}, "event": {"die"}}}
	err = s.Containers.Events(ctx, o, func(e event.Event) error {
		if e.Actor.ID == id && e.Action == "die" {
			status.Code = number(e.Actor.Attributes["exitCode"])
		}
		return nil
	})
	return status, err
}

// removed waits until a container is gone.
func (s *Server) removed(ctx context.Context, id string) error {
	for {
		_, err := s.Containers.Get(ctx, id)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := sleep(ctx, lookEvery/5); err != nil {
			return err
		}
	}
}
