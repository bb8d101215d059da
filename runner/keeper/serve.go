package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/launch"
)

// listen opens the control socket. Its address goes through a descriptor, because the
// path of a run directory may be longer than a socket address.
func listen(runDir string) (*net.UnixListener, error) {
	dir, err := unix.Open(runDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: runDir, Err: err}
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, socketName, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, socketName)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

const socketName = "keeper.sock"

// accept serves connections until the listener is closed.
func (s *supervisor) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, say
			continue
		}
		if !permitted(c) {
			c.Close()
			continue
		}
		go s.serve(newConn(c))
	}
}

// permitted says whether the peer may command us: root, or our own user.
func permitted(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return ok
}

// serve answers one connection.
func (s *supervisor) serve(c *conn) {
	defer c.Close()
	c.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	kind, payload, err := c.read()
	if err != nil || kind != frameRequest {
		return
	}
	var q request
	if err := coldjson.Unmarshal(payload, &q); err != nil {
		return
	}
	switch q.Op {
	case "attach":
		s.serveAttach(c, q)
		return
	case "exec":
		s.serveExec(c, q)
		return
	}
	s.work.Add(1)
	defer s.work.Done()
	switch q.Op {
	case "wait":
		c.c.SetReadDeadline(time.Time{})
		s.serveWait(c)
	default:
		var r reply
		if err := s.command(c, q); err != nil {
			r = failure(err)
		}
		c.writeJSON(frameReply, r)
	}
}

// command performs a request that is answered by success or an error.
func (s *supervisor) command(c *conn, q request) error {
	switch q.Op {
	case "signal":
		return s.signal(unix.Signal(q.Signal), q.Final, true)
	case "stop":
		return s.stopContainer(unix.Signal(q.Signal), time.Duration(q.Millis)*time.Millisecond, !q.Down)
	case "resize":
		_, streams, err := s.running()
		if err != nil {
			return err
		}
		return streams.resize(q.Columns, q.Rows)
	case "pause":
		return s.freeze(Running, Paused, s.cfg.Cgroup.Frozen)
	case "resume":
		return s.freeze(Paused, Running, s.cfg.Cgroup.Thawed)
	case "policy":
		return s.setPolicy(q.Restart)
	case "network":
		return s.changeNetwork(q.Network)
	}
	return fmt.Errorf("request %q: %w", q.Op, errdefs.ErrNotImplemented)
}

func (s *supervisor) signal(sig unix.Signal, final, user bool) error {
	if final && s.endsBetweenRuns(user) {
		return nil
	}
	p, _, err := s.running()
	if err != nil {
		return err
	}
	if err := s.send(p, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if sig == unix.SIGKILL || final {
		s.thaw()
	}
	return nil
}

// endsBetweenRuns lets the container not be restarted. It says whether it has ended by that, as it was between two
// runs. One that is just being started is waited for.
func (s *supervisor) endsBetweenRuns(user bool) bool {
	s.mu.Lock()
	s.forbidRestart(user)
	between, begun := s.proc == nil && !s.over, s.begun
	s.mu.Unlock()
	if !between {
		return false
	}
	select {
	case <-s.ended:
		return true
	case <-begun:
		return false
	}
}

// stopContainer ends the container and returns after its final exit. The client's going
// away does not call it off, except that nobody waits any more. user says whether its user wants that.
func (s *supervisor) stopContainer(sig unix.Signal, timeout time.Duration, user bool) error {
	if err := s.signal(sig, true, user); err != nil && !errors.Is(err, errdefs.ErrConflict) {
		return err
	}
	var expired <-chan time.Time
	if timeout >= 0 && sig != unix.SIGKILL { // nothing is stronger
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-s.ended:
		return nil
	case <-expired:
	}
	if err := s.signal(unix.SIGKILL, true, user); err != nil && !errors.Is(err, errdefs.ErrConflict) {
		return err
	}
	<-s.ended
	return nil
}

// setPolicy replaces the restart policy, for the next keeper too.
func (s *supervisor) setPolicy(p RestartPolicy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Restart = p
	return statefile.Write(filepath.Join(s.cfg.RunDir, configName), s.cfg, statefile.WriteOptions{})
}

// freeze changes between running and paused.
func (s *supervisor) freeze(from, to Status, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Status != from {
		return s.cannotFreeze(to)
	}
	if s.cfg.Cgroup.Freeze == "" {
		return fmt.Errorf("container %s has no freezer: %w", s.cfg.ID, errdefs.ErrNotImplemented)
	}
	if err := os.WriteFile(s.cfg.Cgroup.Freeze, []byte(value), 0); err != nil {
		return err
	}
	s.state.Status = to
	s.save()
	s.event(map[Status]string{Paused: "pause", Running: "unpause"}[to], nil)
	return nil
}

// cannotFreeze says in docker's words (moby daemon/pause.go, unpause.go) why a container cannot become paused or go on.
func (s *supervisor) cannotFreeze(to Status) error {
	why := "container %s is not running"
	switch {
	case to == Running:
		why = "Container %s is not paused"
	case s.state.Status == Paused:
		why = "container %s is already paused"
	case s.state.Status == Restarting:
		why = "Container %s is restarting, wait until the container is running"
	}
	return fmt.Errorf(why+": %w", s.cfg.ID, errdefs.ErrConflict)
}

// thaw lets a container that is paused, or that somebody else has frozen, meet its signal.
func (s *supervisor) thaw() {
	err := s.freeze(Paused, Running, s.cfg.Cgroup.Thawed)
	if errors.Is(err, errdefs.ErrConflict) {
		err = nil
		if s.frozen() {
			err = os.WriteFile(s.cfg.Cgroup.Freeze, []byte(s.cfg.Cgroup.Thawed), 0)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // it has ended
		fmt.Fprintln(os.Stderr, "thawing:", err)
	}
}

// frozen asks the kernel whether the container is frozen, or is being frozen.
func (s *supervisor) frozen() bool {
	if s.cfg.Cgroup.Freeze == "" {
		return false
	}
	b, err := os.ReadFile(s.cfg.Cgroup.Freeze)
	return err == nil && string(bytes.TrimSpace(b)) != s.cfg.Cgroup.Thawed
}

// serveWait tells of the next exit, also of one that another run follows: docker's wait does.
func (s *supervisor) serveWait(c *conn) {
	ctx, gone := context.WithCancel(context.Background())
	go func() { // the client says nothing more; reading ends when it goes
		defer gone()
		c.read()
	}()
	s.mu.Lock()
	over, next := s.over, s.exited
	s.mu.Unlock()
	if !over {
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	c.write(frameExit, encode(last))
}

// serveExec runs another program and reports how it ended. It returns when the client has gone and
// nobody writes to the program's streams any more.
func (s *supervisor) serveExec(c *conn, q request) {
	s.work.Add(1)
	child, ends, err := s.exec(c, q)
	if err != nil {
		c.writeJSON(frameReply, failure(err))
		s.work.Done()
		return
	}
	files := []*os.File{child.PIDFD}
	if child.Console != nil {
		ends = append(ends, child.Console)
		if !q.Detach {
			files = append(files, child.Console)
		}
	}
	c.writeJSON(frameReply, reply{PID: child.PID, File: len(files) > 1}, files...)
	go func() {
		defer s.work.Done()
		e, err := child.Wait()
		status := ExitStatus{Code: e.Code}
		if err != nil {
			status = ExitStatus{Code: codeUnknown, Error: err.Error()}
		}
		s.noteExec(q, status)
		c.write(frameExit, encode(status))
	}()
	c.c.SetReadDeadline(time.Time{})
	c.read() // the client says nothing more, and goes
	c.c.Close()
	s.outlive(ends)
}

// exec starts a program. ends are the files that came for [ExecOptions.Ends].
func (s *supervisor) exec(c *conn, q request) (child *launch.Child, ends []*os.File, err error) {
	program, files, err := readProgram(c, q.Files)
	defer closeAll(files)
	if err == nil {
		ends, err = c.takeFiles(q.Ends)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			closeAll(ends)
		}
	}()
	p, _, err := s.running()
	if err != nil {
		return nil, nil, err
	}
	err = p.use(func(pidfd *os.File) (err error) {
		slots := files
		if program.Slots() == len(files)+1 {
			slots = append(slots[:len(files):len(files)], pidfd)
		}
		s.oom.normal(func() { child, err = launch.Start(program, slots) })
		return err
	})
	return child, ends, err
}

// readProgram reads the frame with a program, and takes the files that came before it.
func readProgram(c *conn, n int) (*launch.Program, []*os.File, error) {
	kind, payload, err := c.read()
	if err != nil {
		return nil, nil, err
	}
	if kind != frameProgram {
		return nil, nil, fmt.Errorf("frame %q instead of a program: %w", kind, errdefs.ErrInvalidArgument)
	}
	p := new(launch.Program)
	if err := p.UnmarshalBinary(payload); err != nil {
		return nil, nil, err
	}
	files, err := c.takeFiles(n)
	return p, files, err
}

func encode(v any) []byte {
	b, err := coldjson.Marshal(v)
	if err != nil {
		panic(err) // plain structs of ours
	}
	return b
}
