package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

func (s *Server) createExec(w http.ResponseWriter, r *request) error {
	var body container.ExecCreateRequest
	if err := r.need(&body); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if _, err := runner.ParseDetachKeys(body.DetachKeys); err != nil {
		return err
	}
	o := runner.ExecOptions{
		Args: body.Cmd, Env: body.Env, WorkingDir: body.WorkingDir, User: body.User, TTY: body.Tty,
		Stdin: body.AttachStdin, Output: body.AttachStdout || body.AttachStderr, Privileged: body.Privileged,
	}
	if size := body.ConsoleSize; size != nil && r.version >= 42 {
		o.Rows, o.Columns = uint16(size[0]), uint16(size[1])
	}
	id, err := s.Containers.ExecCreate(r.Context(), r.name, o, body.DetachKeys)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// startExec answers POST /exec/ID/start. What cannot be started is an error before the
// connection is taken over.
func (s *Server) startExec(w http.ResponseWriter, r *request) error {
	r.keepOn()
	var body container.ExecStartRequest
	if err := r.decode(&body); err != nil {
		return err
	}
	info, err := s.Containers.ExecInspect(r.Context(), r.name)
	if err != nil {
		return err
	}
	keys, err := runner.ParseDetachKeys(info.DetachKeys)
	if err != nil {
		return err
	}
	o := runner.ExecStartOptions{Detach: body.Detach}
	if size := body.ConsoleSize; size != nil && r.version >= 42 {
		if !body.Tty {
			return invalid("console size is only supported when TTY is enabled")
		}
		o.Rows, o.Columns = uint16(size[0]), uint16(size[1])
	}
	x, err := s.Containers.ExecStart(context.WithoutCancel(r.Context()), r.name, o)
	var launch *keeper.LaunchError
	if errors.As(err, &launch) && !body.Detach {
		return sayInstead(w, r, body.Tty, err)
	}
	if err != nil {
		return err
	}
	if body.Detach {
		if x != nil {
			x.Close()
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	heard, tell := context.WithCancel(context.Background())
	defer tell()
	s.unheard.Store(info.ID, heard)
	defer s.unheard.Delete(info.ID)
	// The form of the stream follows this request, not what the process has.
	h, err := hijack(w, r, body.Tty)
	if err != nil {
		x.Close()
		closeStreams(x)
		return err
	}
	defer h.bow()
	ctx, cancel := r.stream()
	defer cancel()
	s.converse(ctx, x, h, newOutput(h, body.Tty), info, keys)
	tell()
	return nil
}

// sayInstead: what could not be executed says so as its output. Clients then ask for the
// exit code.
func sayInstead(w http.ResponseWriter, r *request, tty bool, cause error) error {
	h, err := hijack(w, r, tty)
	if err != nil {
		return err
	}
	defer h.bow()
	_, err = io.WriteString(newOutput(h, tty).stream(streamStdout), message(cause)+"\r\n")
	return ignoreWrite(err)
}

func closeStreams(x *runner.Exec) {
	if x.Stdin != nil {
		x.Stdin.Close()
	}
	if x.Stdout != nil {
		x.Stdout.Close()
	}
	if x.Stderr != nil {
		x.Stderr.Close()
	}
}

// converse passes the streams of an executed command until it ends, or the client goes.
// A client that goes leaves the command running, as docker does.
func (s *Server) converse(ctx context.Context, x *runner.Exec, h *hijacked, o output, info runner.ExecInfo, keys []byte) {
	defer x.Close()
	ctx, gone := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { h.hangUp(ctx, gone) })
	defer gone()
	if x.Stdin != nil && info.Options.Stdin {
		go feedExec(x, h, info.Options.TTY, keys, gone)
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		x.Wait(ctx)
		close(ended)
	}()
	go func() {
		x.CopyOutput(ended, o.stream(streamStdout), o.stream(streamStderr))
		close(done)
	}()
	select {
	case <-done:
		<-ended // so that an inspection that follows knows the exit code
	case <-ctx.Done():
		h.Close() // ends writes to a client that reads nothing
	}
	closeStreams(x)
	<-done
}

func feedExec(x *runner.Exec, h *hijacked, tty bool, keys []byte, gone func()) {
	var in io.Reader = h
	if tty {
		in = &runner.DetachReader{R: h, Keys: keys}
	}
	_, err := io.Copy(x.Stdin, in)
	switch {
	case errors.Is(err, runner.ErrDetached):
		gone()
	case !tty:
		x.Stdin.Close()
	}
}

func (s *Server) resizeExec(w http.ResponseWriter, r *request) error {
	rows, columns, err := r.size()
	if err != nil {
		return err
	}
	return s.Containers.ExecResize(r.Context(), r.name, columns, rows)
}

// awaitHeard waits until the client of a command that has ended was sent what it said, as long as dockerd
// does: nomad for one reads no further once it is told of the end.
func (s *Server) awaitHeard(ctx context.Context, id string) {
	heard, ok := s.unheard.Load(id)
	if !ok {
		return
	}
	select {
	case <-heard.(context.Context).Done():
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
	}
}

func (s *Server) inspectExec(w http.ResponseWriter, r *request) error {
	i, err := s.Containers.ExecInspect(r.Context(), r.name)
	if err != nil {
		return err
	}
	if !i.Running {
		s.awaitHeard(r.Context(), i.ID)
	}
	o := &i.Options
	out := container.ExecInspectResponse{
		ID: i.ID, Running: i.Running, ExitCode: i.ExitCode, ContainerID: i.ContainerID, Pid: i.Pid,
		OpenStdin: o.Stdin, OpenStdout: o.Output, OpenStderr: o.Output, CanRemove: i.ExitCode != nil, DetachKeys: []byte{},
		ProcessConfig: &container.ExecProcessConfig{Tty: o.TTY, Privileged: &o.Privileged, User: o.User, Arguments: []string{}},
	}
	if len(o.Args) > 0 {
		out.ProcessConfig.Entrypoint, out.ProcessConfig.Arguments = o.Args[0], o.Args[1:]
	}
	return writeJSON(w, http.StatusOK, out)
}
