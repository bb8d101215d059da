package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sys/unix"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/runner"
)

// A talk is a stream of messages by which a client starts processes in its containers, and talks to them:
//
//	client  init                                  file 0 ... EOF   resize, signal
//	here          started   file 1 ... file 2 ...                                  EOF of 1 and 2   exit   done
//
// All processes of a client may share one stream. Of input that a process does not read as much is kept as its queue
// has room for; then the stream waits.
type talk struct {
	bridge *bridge
	ctx    context.Context // of the processes
	out    chan *gwpb.ExecMessage
	work   sync.WaitGroup   // processes
	all    map[string]*task // by the client's ID, also those that have ended
}

const (
	maxProcesses = 1000 // of one stream, also those that have ended
	inputQueue   = 64   // messages; clients send 32 KiB at once
	maxEarly     = 64   // signals
)

// A task is a process that a client has started.
type task struct {
	t       *talk
	id      string
	input   chan []byte   // closed at its end; nil: there is none
	closed  bool          // input
	rest    []byte        // of the message that is being read
	started chan struct{} // the client knows that it has been started
	ended   chan struct{}
	fds     []uint32

	mu      sync.Mutex
	running op.Running // nil until it runs
	size    *gwpb.ResizeMessage
	early   []unix.Signal // that came before it ran
}

// ExecProcess implements gwpb.LLBBridgeServer. Processes end with the stream that has started them.
func (s bridges) ExecProcess(stream gwpb.LLBBridge_ExecProcessServer) error {
	return s.call(stream.Context(), func(ctx context.Context, b *bridge) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		t := &talk{bridge: b, ctx: ctx, out: make(chan *gwpb.ExecMessage), all: map[string]*task{}}
		// A client may neither send nor read. So nobody waits for these two: gRPC ends them when this call has returned.
		in, failed := make(chan *gwpb.ExecMessage), make(chan error, 2)
		go listen(ctx, stream, in, failed)
		go t.send(stream, failed)
		err := t.serve(in, failed)
		if err == nil { // the client has said all it has to say
			t.finish()
		}
		cancel()
		t.work.Wait()
		return err
	})
}

func listen(ctx context.Context, stream gwpb.LLBBridge_ExecProcessServer, in chan<- *gwpb.ExecMessage, failed chan<- error) {
	for {
		m, err := stream.Recv()
		if err != nil {
			failed <- err
			return
		}
		select {
		case in <- m:
		case <-ctx.Done():
			return
		}
	}
}

// send sends what processes have to say, one message after another.
func (t *talk) send(stream gwpb.LLBBridge_ExecProcessServer, failed chan<- error) {
	for {
		select {
		case m := <-t.out:
			if err := stream.Send(m); err != nil {
				failed <- err
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// serve does what the client says until it has no more to say, or one of the two who carry messages has failed.
func (t *talk) serve(in <-chan *gwpb.ExecMessage, failed <-chan error) error {
	for {
		select {
		case m := <-in:
			if err := t.take(m); err != nil {
				return err
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

// finish waits for the end of all processes, which get no more input.
func (t *talk) finish() {
	for _, p := range t.all {
		p.closeInput()
	}
	t.work.Wait()
}

// take does what one message says.
func (t *talk) take(m *gwpb.ExecMessage) error {
	if init := m.GetInit(); init != nil {
		return t.start(m.ProcessID, init)
	}
	p := t.all[m.ProcessID]
	if p == nil {
		return fmt.Errorf("process %q: %w", m.ProcessID, errdefs.ErrNotFound)
	}
	switch w := m.Input.(type) {
	case *gwpb.ExecMessage_File:
		return p.write(w.File)
	case *gwpb.ExecMessage_Resize:
		p.resize(w.Resize)
		return nil
	case *gwpb.ExecMessage_Signal:
		return p.signal(w.Signal.GetName())
	}
	return fmt.Errorf("message %T for a process: %w", m.Input, errdefs.ErrInvalidArgument)
}

// start starts a process.
func (t *talk) start(id string, init *gwpb.InitMessage) error {
	switch {
	case id == "":
		return fmt.Errorf("a process without an ID: %w", errdefs.ErrInvalidArgument)
	case t.all[id] != nil:
		return fmt.Errorf("process %s: %w", id, errdefs.ErrAlreadyExists)
	case len(t.all) >= maxProcesses:
		return fmt.Errorf("%d processes: %w", maxProcesses, errdefs.ErrResourceExhausted)
	case init.Meta == nil:
		return fmt.Errorf("a process without anything to execute: %w", errdefs.ErrInvalidArgument)
	case len(init.Fds) > 3 || slices.ContainsFunc(init.Fds, func(fd uint32) bool { return fd > 2 }):
		return fmt.Errorf("descriptors %v: %w", init.Fds, errdefs.ErrInvalidArgument)
	}
	p := &task{t: t, id: id, fds: init.Fds, started: make(chan struct{}), ended: make(chan struct{})}
	q := op.SandboxProcess{
		Args: init.Meta.Args, Env: init.Meta.Env, SecretEnv: init.Secretenv, User: init.Meta.User, Cwd: init.Meta.Cwd,
		Security: init.Security, TTY: init.Tty, Begun: p.begun,
	}
	for _, fd := range init.Fds {
		switch fd {
		case 0:
			p.input = make(chan []byte, inputQueue)
			q.Stdin = p
		case 1:
			q.Stdout = output{p, fd}
		case 2:
			q.Stderr = output{p, fd}
		}
	}
	t.all[id] = p
	t.work.Go(func() { p.run(init.ContainerID, q) })
	return nil
}

// run runs the process and tells the client how that goes.
func (p *task) run(container string, q op.SandboxProcess) {
	box, err := p.t.bridge.container(container)
	if err == nil {
		// A client may wait for this before it reads what another process says, so that one could wait for the other.
		// The first process is waited for, as with BuildKit.
		if box.Begun() {
			p.sayStarted()
		}
		err = box.Run(p.t.ctx, q)
	}
	close(p.ended)
	p.sayStarted() // clients want to hear that first, also of one that could not be started
	for _, fd := range p.fds {
		if fd != 0 {
			p.say(&gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: fd, EOF: true}})
		}
	}
	p.say(&gwpb.ExecMessage_Exit{Exit: exitMessage(err)})
	p.say(&gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}})
}

// exitMessage tells how a process ended.
func exitMessage(err error) *gwpb.ExitMessage {
	if err == nil {
		return &gwpb.ExitMessage{}
	}
	st, _ := status.FromError(grpcerrors.ToGRPC(context.Background(), coded(err)))
	m := &gwpb.ExitMessage{Code: gwpb.UnknownExitStatus, Error: &spb.Status{Code: st.Proto().Code, Message: st.Proto().Message, Details: st.Proto().Details}}
	var exit *op.ExitError
	if errors.As(err, &exit) {
		m.Code = uint32(exit.Code)
	}
	return m
}

// say sends a message, unless the stream ends before.
func (p *task) say(m any) bool {
	msg := &gwpb.ExecMessage{ProcessID: p.id}
	switch m := m.(type) {
	case *gwpb.ExecMessage_Started:
		msg.Input = m
	case *gwpb.ExecMessage_File:
		msg.Input = m
	case *gwpb.ExecMessage_Exit:
		msg.Input = m
	case *gwpb.ExecMessage_Done:
		msg.Input = m
	}
	select {
	case p.t.out <- msg:
		return true
	case <-p.t.ctx.Done():
		return false
	}
}

func (p *task) sayStarted() {
	if solver.Over(p.started) {
		return
	}
	p.say(&gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}})
	close(p.started)
}

// begun is called when the process runs.
func (p *task) begun(r op.Running) {
	p.mu.Lock()
	p.running = r
	if p.size != nil {
		p.fit()
	}
	for _, sig := range p.early {
		_ = r.Signal(sig)
	}
	p.mu.Unlock()
	p.sayStarted()
}

// resize sets the size of the terminal. One that comes too late is nobody's mistake.
func (p *task) resize(m *gwpb.ResizeMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = m
	if p.running != nil && !solver.Over(p.ended) {
		p.fit()
	}
}

func (p *task) fit() {
	_ = p.running.Resize(uint16(min(p.size.GetCols(), math.MaxUint16)), uint16(min(p.size.GetRows(), math.MaxUint16)))
}

// signal sends a signal by its name.
func (p *task) signal(name string) error {
	sig, err := runner.ParseSignal(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case solver.Over(p.ended):
	case p.running != nil:
		return p.running.Signal(sig)
	case len(p.early) < maxEarly:
		p.early = append(p.early, sig)
	}
	return nil
}

// write queues input.
func (p *task) write(f *gwpb.FdMessage) error {
	if f.GetFd() != 0 || p.input == nil {
		return fmt.Errorf("input for descriptor %d: %w", f.GetFd(), errdefs.ErrOutOfRange)
	}
	if !p.closed && len(f.Data) > 0 {
		select {
		case p.input <- f.Data:
		case <-p.ended:
		case <-p.t.ctx.Done():
		}
	}
	if f.EOF {
		p.closeInput()
	}
	return nil
}

func (p *task) closeInput() {
	if p.input != nil && !p.closed {
		p.closed = true
		close(p.input)
	}
}

// Read is the process's input.
func (p *task) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		var ok bool
		select {
		case p.rest, ok = <-p.input:
			if !ok {
				return 0, io.EOF
			}
		case <-p.ended:
			return 0, io.EOF
		case <-p.t.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// An output carries what a process writes to a descriptor.
type output struct {
	p  *task
	fd uint32
}

func (o output) Write(b []byte) (int, error) {
	select {
	case <-o.p.started:
	case <-o.p.t.ctx.Done():
		return 0, o.p.t.ctx.Err()
	}
	if !o.p.say(&gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, Data: slices.Clone(b)}}) {
		return 0, o.p.t.ctx.Err()
	}
	return len(b), nil
}
