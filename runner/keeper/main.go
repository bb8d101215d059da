package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/slack"
)

// Main is the keeper process; it returns its exit code. args are the process's own
// without its name.
func Main(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		return initMain(args[1:])
	}
	setName("teu-keeper") // it was started by a descriptor, whose number top(1) would show
	// Caught, not ignored: an ignored signal would be so for the container too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM,
		unix.SIGTSTP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	unix.Umask(0o077)
	c, err := initialConn()
	if err != nil {
		fmt.Fprintln(os.Stderr, "teu-keeper is started by teu")
		return 2
	}
	switch {
	case len(args) == 1 && args[0] == "job":
		return jobs(c)
	case len(args) == 1 && args[0] == "launch":
		return oneshot(c)
	case len(args) == 2 && args[0] == "run":
		return waitAndSupervise(c, args[1])
	case len(args) == 2 && args[0] == "adopt":
		return supervise(c, args[1], (*supervisor).adopt)
	}
	fmt.Fprintln(os.Stderr, "unknown arguments", args)
	return 2
}

// setName sets the name of the calling thread, of 15 bytes at most (PR_SET_NAME(2const)); the
// main thread's is the process's.
func setName(name string) {
	b := append([]byte(name), 0)
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}

// waitAndSupervise is the life of a keeper from before there is a container.
func waitAndSupervise(c *conn, runDir string) int {
	kind, payload, err := c.read()
	var q request
	if err == nil && kind == frameRequest {
		err = coldjson.Unmarshal(payload, &q)
	}
	if err != nil {
		return 0 // the starter went: nothing has happened
	}
	return supervise(c, runDir, func(s *supervisor, c *conn) bool { return s.fresh(c, q) })
}

// supervise is the whole life of a container's keeper. begin starts or adopts the
// container, answers the starter, and reports whether there is something to keep.
func supervise(c *conn, runDir string, begin func(*supervisor, *conn) bool) int {
	err := complainInto(filepath.Join(runDir, complaintsName))
	var s *supervisor
	if err == nil {
		s, err = prepare(runDir)
	}
	if err != nil {
		c.writeJSON(frameReply, failure(err))
		return 1
	}
	if s == nil { // another keeper lives
		c.writeJSON(frameReply, reply{})
		return 0
	}
	s.oom.protect()
	if !begin(s, c) {
		s.unlock()
		return 1
	}
	go s.accept()
	defer time.AfterFunc(time.Second, func() {
		settle()
		s.watchOOM()
	}).Stop()
	s.serveNetwork()
	s.life()
	s.retire()
	return 0
}

// settle makes a keeper small that will stay. One whose container ends at once has been
// spared the work.
func settle() {
	debug.SetGCPercent(25)
	debug.FreeOSMemory()
}

// prepare takes the lock and opens everything. It returns nil if another keeper lives.
func prepare(runDir string) (*supervisor, error) {
	unlock, err := lockKeeper(runDir)
	if unlock == nil || err != nil {
		return nil, err
	}
	cfg := new(Config)
	if err := statefile.Read(filepath.Join(runDir, configName), cfg); err != nil {
		return nil, err
	}
	if cfg.Record != "" {
		statefile.Hold(cfg.Record) // else who wants to know looks into /proc
	}
	s := newSupervisor(cfg, unlock)
	b, err := os.ReadFile(filepath.Join(runDir, programName))
	if err != nil {
		return nil, err
	}
	s.program = new(launch.Program)
	if err := s.program.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("reading the launch program: %w", err)
	}
	if err := statefile.Read(cfg.StateFile, &s.state); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if s.state.Keeper, err = statefile.Self(); err != nil {
		return nil, err
	}
	cursor := filepath.Join(runDir, "cursor")
	if s.rec, err = openRecorder(cfg.Log, cursor); err != nil && s.state.Status.GoesOn() {
		fmt.Fprintln(os.Stderr, "output is not logged:", err) // for that nobody leaves a container without a keeper
		s.rec, err = openRecorder(Log{}, cursor)
	}
	if err != nil {
		return nil, err
	}
	if err := s.openNetwork(); err != nil {
		return nil, err
	}
	s.listener, err = listen(runDir)
	return s, err
}

const (
	configName  = "keeper.json"
	programName = "program"
	lockName    = "keeper.lock"

	complaintsName = "keeper.err"
)

// complainInto makes a file the process's standard error.
func complainInto(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		return fmt.Errorf("redirecting the standard error: %w", err)
	}
	return nil
}

// lockKeeper returns nil if another keeper holds the lock. One that is on its way out
// holds it for moments.
func lockKeeper(runDir string) (func() error, error) {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
		unlock, ok, err := statefile.TryLock(filepath.Join(runDir, lockName), statefile.LockOptions{})
		if ok || err != nil {
			return unlock, err
		}
		if time.Now().After(deadline) {
			return nil, nil
		}
	}
}

// fresh answers a start request.
func (s *supervisor) fresh(c *conn, q request) bool {
	if c.hungUp() {
		return false // whoever comes next finds that nothing has happened
	}
	var sub *subscriber
	if q.Stream {
		sub = newSubscriber(c, q.Attach)
		s.subs[sub] = true
	}
	s.state.RestartCount = 0
	if err := s.rec.beginSending(true); err != nil {
		c.writeJSON(frameReply, failure(err))
		return false
	}
	if err := s.launch(); err != nil {
		s.mu.Lock()
		s.state.ExitCode, s.state.Error = codeOf(err), err.Error()
		s.save()
		s.mu.Unlock()
		c.writeJSON(frameReply, failure(err))
		return false
	}
	err := c.writeJSON(frameReply, reply{PID: s.proc.id.PID})
	if sub == nil {
		c.Close()
		return true
	}
	if q.Claim {
		s.claim = make(chan bool, 1)
	}
	s.work.Add(1)
	go func() {
		defer c.Close()
		if err != nil {
			sub.abandon()
		}
		done := s.converse(c, sub, q.Attach.Stdin)
		if q.Claim {
			s.claim <- done
		}
	}()
	return true
}

// retire ends the keeper after the final exit: the door is closed first, so that the
// container can be started again at once; then clients get what is theirs, and the
// finishing is done.
func (s *supervisor) retire() {
	s.closeNetwork()
	s.listener.Close() // its name may be the next keeper's already
	s.rec.Close()
	s.endLeft()
	s.unlock()
	if s.claim == nil || !<-s.claim {
		s.finish()
	}
	s.work.Wait()
}

// startProcess starts a program with what this process was started with.
func startProcess(args []string, attr *os.ProcAttr) (p *os.Process, err error) {
	slack.Usual(func() { p, err = os.StartProcess(args[0], args, attr) })
	return p, err
}

// finish lets teu clean up after the container.
func (s *supervisor) finish() {
	if len(s.cfg.Finish) == 0 {
		return
	}
	var p *os.Process
	var err error
	s.oom.normal(func() {
		p, err = startProcess(s.cfg.Finish, &os.ProcAttr{Dir: "/", Env: s.cfg.Env, Files: []*os.File{nil, nil, os.Stderr}})
	})
	if err == nil {
		_, err = p.Wait()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "finishing:", err)
	}
}
