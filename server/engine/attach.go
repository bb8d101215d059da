package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// attachStreams reads which streams a client wants.
func attachStreams(r *request, c *runner.Container) keeper.AttachOptions {
	return keeper.AttachOptions{
		Stdin:  r.flag("stdin") && c.Options.OpenStdin,
		Stdout: r.flag("stdout"), Stderr: r.flag("stderr") && !c.Options.TTY,
	}
}

// attach answers POST /containers/ID/attach: the container's streams, now or from its
// next start on.
func (s *Server) attach(w http.ResponseWriter, r *request) error {
	r.keepOn()
	c, keys, err := s.attachable(r)
	if err != nil {
		return err
	}
	cl, dismiss := s.enlist(r, c) // before the answer: its client then starts the container
	defer dismiss()
	h, err := hijack(w, r, c.Options.TTY)
	if err != nil {
		return err
	}
	defer h.bow()
	s.attached(r, c, cl, conversation{in: h, out: newOutput(h, c.Options.TTY), keys: keys, hangUp: h.hangUp})
	return nil
}

// enlist puts a client that attaches to a container that does not run on the list of those
// who get its next run. The client is nil if the container runs.
func (s *Server) enlist(r *request, c *runner.Container) (cl *client, dismiss func()) {
	if c.State.Status.GoesOn() || !r.flag("stream") {
		return nil, func() {}
	}
	cl = &client{options: attachStreams(r, c), ready: make(chan struct{}), session: make(chan *runner.Session, 1), done: make(chan struct{})}
	s.lives.change(c.ID, func(l *life) { l.clients = append(l.clients, cl) })
	return cl, func() {
		s.lives.change(c.ID, func(l *life) {
			l.clients = slices.DeleteFunc(l.clients, func(o *client) bool { return o == cl })
		})
		cl.leave()
		cl.open(output{w: io.Discard, mu: &sync.Mutex{}})
	}
}

func (s *Server) attachable(r *request) (c *runner.Container, keys []byte, err error) {
	if keys, err = runner.ParseDetachKeys(r.param("detachKeys")); err != nil {
		return nil, nil, err
	}
	if c, err = s.Containers.Get(r.Context(), r.name); err != nil {
		return nil, nil, err
	}
	switch c.State.Status {
	case keeper.Paused:
		err = worded(errdefs.ErrConflict, "container %s is paused, unpause the container before attach", c.ID)
	case keeper.Restarting:
		err = worded(errdefs.ErrConflict, "container %s is restarting, wait until the container is running", c.ID)
	}
	return c, keys, err
}

// conversation is a client's side of attached streams.
type conversation struct {
	in     io.Reader
	out    output
	keys   []byte // that detach, at a terminal
	hangUp func(ctx context.Context, gone func())
}

// attached serves a client until the container ends, or it goes.
func (s *Server) attached(r *request, c *runner.Container, cl *client, v conversation) {
	ctx, cancel := r.stream()
	defer cancel()
	o := attachStreams(r, c)
	if r.flag("logs") {
		err := s.Containers.Logs(ctx, c.ID, runner.LogOptions{Tail: -1}, v.out.logs(streamStdout), v.out.logs(streamStderr))
		if err != nil {
			return
		}
	}
	if !r.flag("stream") {
		return
	}
	ctx, gone := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { v.hangUp(ctx, gone) })
	defer watch.Wait()
	defer gone()
	if cl == nil {
		s.join(ctx, c, o, v)
		return
	}
	s.awaitStart(ctx, c, cl, v)
}

// join connects a client to a container that runs.
func (s *Server) join(ctx context.Context, c *runner.Container, o keeper.AttachOptions, v conversation) {
	session, err := s.Containers.Attach(ctx, c.ID, o)
	if err != nil {
		return // it has just ended
	}
	defer session.Close()
	if o.Stdin {
		go v.feed(session, c.Options.TTY, session.Detach) // ends with the connection
	}
	session.Copy(ctx, v.out.stream(streamStdout), v.out.stream(streamStderr))
}

// feed gives a container the client's input.
func (v conversation) feed(session *runner.Session, tty bool, detach func()) {
	in := v.in
	if tty {
		in = &runner.DetachReader{R: in, Keys: v.keys}
	}
	_, err := io.Copy(session, in)
	if errors.Is(err, runner.ErrDetached) {
		detach()
		return
	}
	session.CloseInput()
}

// awaitStart keeps a client until the container is started, by us or by another process,
// and then until its end.
func (s *Server) awaitStart(ctx context.Context, c *runner.Container, cl *client, v conversation) {
	cl.open(v.out)
	for {
		wait, stop := context.WithTimeout(ctx, lookEvery)
		select {
		case session := <-cl.session:
			stop()
			s.follow(ctx, cl, session, c.Options.TTY, v)
			return
		case <-cl.done: // it could not be started
			stop()
			return
		case <-wait.Done():
			stop()
		}
		if ctx.Err() != nil {
			return
		}
		now, err := s.Containers.Get(ctx, c.ID)
		if errdefs.IsNotFound(err) {
			return
		}
		if err == nil && now.State.Status.GoesOn() && s.pending(c.ID, cl) {
			s.join(ctx, c, cl.options, v)
			return
		}
	}
}

// pending says whether a client still waits for us to start its container.
func (s *Server) pending(id string, cl *client) bool {
	s.lives.mu.Lock()
	defer s.lives.mu.Unlock()
	l := s.lives.all[id]
	return l != nil && slices.Contains(l.clients, cl)
}

// follow serves a client whose container we have started.
func (s *Server) follow(ctx context.Context, cl *client, session *runner.Session, tty bool, v conversation) {
	detached := make(chan struct{})
	if cl.options.Stdin {
		go v.feed(session, tty, func() { close(detached) })
	}
	select {
	case <-cl.done:
	case <-detached:
	case <-ctx.Done():
		if cl.options.Stdin {
			session.CloseInput() // as StdinOnce asks for
		}
	}
}
