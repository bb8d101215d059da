package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
	"github.com/teu-dev/teu/runner/launch"
)

// supervisor is the keeper process of a container. Its life is one goroutine
// ([supervisor.life]); each connection has another.
type supervisor struct {
	cfg      *Config
	program  *launch.Program
	rec      *recorder
	unlock   func() error
	listener *net.UnixListener
	forwards []forwarder
	room     *room          // of forwards, nil without
	names    *dns.Responder // nil in a network without names
	oom      oomScore

	work sync.WaitGroup // connections and subscribers that must end before the process does

	mu      sync.Mutex
	state   State
	proc    *process // of the present run, else nil
	io      *stdio   // of the present run, else nil
	pumped  chan struct{}
	last    ExitStatus
	over    bool // the final exit has been
	stop    bool // no more restarts
	stopped chan struct{}
	exited  chan struct{} // closed at the next exit, then replaced
	begun   chan struct{} // between two runs: closed when the next one begins
	ended   chan struct{} // closed at the final exit
	subs    map[*subscriber]bool
	pos     [2]int64 // bytes of each stream that were broadcast, by earlier keepers too
	// awaited are the clients of an earlier keeper that have not returned; returned is closed
	// when there are none any more, and nil if there never were.
	awaited  []statefile.Process
	returned chan struct{}
	renew    bool // the present run ends because it is unhealthy, and another shall follow
	// endHealth ends the watching of the present run, if there is any.
	endHealth context.CancelFunc
	claim     chan bool        // the claimant's word: done or gone; nil without a claimant
	left      map[*holder]bool // of commands whose clients have gone
}

func newSupervisor(cfg *Config, unlock func() error) *supervisor {
	return &supervisor{
		cfg: cfg, unlock: unlock,
		stopped: make(chan struct{}), exited: make(chan struct{}), ended: make(chan struct{}),
		subs: map[*subscriber]bool{},
	}
}

// save writes the state. mu is held.
func (s *supervisor) save() {
	err := statefile.Write(s.cfg.StateFile, &s.state, statefile.WriteOptions{Overwrite: true})
	if h := s.state.Health; h != nil && statefile.NoRoom(err) {
		short := s.state
		short.Health = &Health{Status: h.Status, FailingStreak: h.FailingStreak}
		err = statefile.Write(s.cfg.StateFile, &short, statefile.WriteOptions{Overwrite: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "writing the state:", err)
	}
}

// launch runs the program. On success the container is running and its output flows.
func (s *supervisor) launch() error {
	streams, theirs, err := openStreams(s.cfg)
	if err != nil {
		return err
	}
	oom := oomKills(s.cfg.Cgroup)
	var begun *launch.Beginning
	s.oom.normal(func() { begun, err = launch.Begin(s.program, theirs) })
	closeAll(theirs)
	if err != nil {
		streams.close()
		return err
	}
	var held *holder // forked while the child is at work, unless it will send what is to be held
	var heldErr error
	if pidfd := begun.PIDFD(); pidfd != nil && !s.cfg.TTY {
		held, heldErr = forkHolder(pidfd, streams)
	}
	child, err := begun.Follow()
	if err != nil {
		held.end()
		streams.close()
		return err
	}
	if child.Console != nil {
		err = streams.useConsole(child.Console)
		child.Console.Close()
		if err == nil && s.cfg.Columns > 0 {
			err = streams.resize(s.cfg.Columns, s.cfg.Rows)
		}
	}
	if err == nil {
		err = s.passGates(child)
	}
	p, e := childProcess(child)
	if err = errors.Join(err, e, heldErr); err == nil && held == nil {
		held, err = forkHolder(child.PIDFD, streams)
	}
	if err == nil {
		err = held.keep(s.cfg.RunDir, recordPrefix)
	}
	if err != nil {
		held.end()
		unix.PidfdSendSignal(int(child.PIDFD.Fd()), unix.SIGKILL, nil, 0)
		child.Wait()
		streams.close()
		return err
	}
	streams.holder = held
	s.started(p, streams, oom)
	return nil
}

// hold gives a run a holder, or another if it has one.
func (s *supervisor) hold(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != p || s.io.closed {
		return
	}
	old := s.io.holder
	var h *holder
	err := p.use(func(pidfd *os.File) (err error) {
		h, err = startHolder(pidfd, s.io)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	s.io.holder, s.state.Holder = h, statefile.Process{}
	if h != nil {
		s.state.Holder = h.id
		go s.watchHolder(p, h)
	}
	s.save()
	old.end()
}

// started records a run that has started.
func (s *supervisor) started(p *process, streams *stdio, oom uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Status, s.state.Init = Running, p.id
	s.state.ExitCode, s.state.OOMKilled, s.state.Error = 0, false, ""
	s.state.OOMKills = oom
	s.state.StartedAt = time.Now().UTC()
	s.state.Finished, s.state.Stopped = false, s.stop && s.state.Stopped
	s.state.Holder = streams.holder.id
	s.state.Health, s.state.Attached = nil, s.clients()
	if s.cfg.Health != nil {
		s.state.Health = &Health{Status: HealthStarting}
	}
	s.save()
	s.event("start", nil)
	s.enter(p, streams)
}

// enter makes p the present run and lets its output flow. mu is held.
func (s *supervisor) enter(p *process, streams *stdio) {
	s.proc, s.io = p, streams
	if s.begun != nil {
		close(s.begun)
		s.begun = nil
	}
	s.rec.limit(true)
	s.beginHealth(p)
	go s.watchHolder(p, streams.holder)
	pumped := make(chan struct{})
	s.pumped = pumped
	go func() {
		defer close(pumped)
		s.awaitReturn()
		if err := streams.pump(s); err != nil && !errors.Is(err, os.ErrClosed) {
			fmt.Fprintln(os.Stderr, "reading the output:", err)
		}
	}()
}

// drainTime is how long output is awaited from processes that outlive pid 1, which only
// a container without a PID namespace of its own can have.
const drainTime = 2 * time.Second

// slowTime is how long the exit of a container waits for clients that read its output slowly.
const slowTime = time.Second

// life waits for the end of the present run, starts others as the restart policy says,
// and returns after the final exit.
func (s *supervisor) life() {
	delay := firstDelay
	for {
		exit := s.proc.wait()
		killAll(s.cfg.Cgroup)
		s.awaitReturn()
		s.drain()
		ran := s.proc.id.Age()
		again := s.exit(exit, ran)
		if !again {
			return
		}
		if ran > steadyTime {
			delay = firstDelay
		}
		select {
		case <-time.After(delay):
		case <-s.stopped:
		}
		delay = min(2*delay, lastDelay)
		if !s.relaunch() {
			return
		}
	}
}

// drain takes the rest of the output and ends the run's streams.
func (s *supervisor) drain() {
	defer s.unlimit()
	defer time.AfterFunc(slowTime, s.unlimit).Stop()
	select {
	case <-s.pumped:
	case <-time.After(drainTime):
	}
	s.unlimit()
	s.mu.Lock()
	s.io.close()
	s.mu.Unlock()
	<-s.pumped
	s.rec.end(0)
	s.rec.end(1)
	s.rec.flush()
}

// exit records the end of a run, which has lasted as long as ran says, and tells the clients. It
// reports whether there will be another.
func (s *supervisor) exit(e ExitStatus, ran time.Duration) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteOOM()
	e.OOMKilled = s.state.OOMKilled
	again = !s.stop && (s.renew || s.cfg.Restart.again(e, s.state.RestartCount))
	s.renew = false
	if s.endHealth != nil {
		s.endHealth()
		s.endHealth = nil
	}
	e.Final = !again
	holder := s.io.holder
	s.proc.close()
	s.proc, s.io, s.begun = nil, nil, make(chan struct{})
	st := &s.state
	st.Status, st.ExitCode, st.Error = Exited, e.Code, e.Error
	st.Init = statefile.Process{}
	st.FinishedAt = time.Now().UTC()
	if again {
		st.Status = Restarting
		st.RestartCount++
	}
	s.save()
	s.tellExit(e, ran) // compose looks at once whether the container goes on, and waits for its next end if it does
	s.tell(e)
	holder.end() // not before the end is recorded: should we be killed, it knows of it, and the record of it
	return again
}

// tell ends whoever waited for an exit, which the saved state has. mu is held.
func (s *supervisor) tell(e ExitStatus) {
	s.last, s.over = e, e.Final
	for _, sub := range s.subscribers() {
		sub.put(frameExit, encode(e))
		sub.end()
	}
	clear(s.subs)
	close(s.exited)
	s.exited = make(chan struct{})
	if s.over {
		close(s.ended)
	}
}

// relaunch starts the next run. If it cannot be, or somebody stopped the container
// meanwhile, the exit before was the final one.
func (s *supervisor) relaunch() bool {
	s.mu.Lock()
	stop := s.stop
	s.mu.Unlock()
	var err error
	if !stop {
		if err = s.launch(); err == nil {
			return true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := ExitStatus{Code: s.state.ExitCode, OOMKilled: s.state.OOMKilled, Final: true}
	s.state.Status = Exited
	if err != nil {
		e.Code, e.Error = codeOf(err), err.Error()
		s.state.ExitCode, s.state.Error = e.Code, e.Error
	}
	s.save()
	s.tell(e)
	return false
}

// codeOf is docker's exit code of a failed launch.
func codeOf(err error) int {
	var step *launch.StepError
	if errors.As(err, &step) {
		return step.ExitCode()
	}
	return 125
}

// forbidRestart makes the next exit the final one. For restart policies the container was stopped only if its user
// wants that. mu is held.
func (s *supervisor) forbidRestart(user bool) {
	if !s.stop {
		s.stop = true
		close(s.stopped)
	}
	if user && !s.state.Stopped {
		s.state.Stopped = true
		s.save()
	}
}

// killAll kills what is left in the cgroup after the end of pid 1.
func killAll(c Cgroup) {
	if c.ProcFile == "" {
		return
	}
	b, err := os.ReadFile(c.ProcFile)
	if err != nil {
		return
	}
	for field := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// The sink of the pumps.

func (s *supervisor) begin(index int, chunk []byte) (int, int64) { return s.rec.begin(index, chunk) }
func (s *supervisor) record(index int, chunk []byte)             { s.rec.record(index, chunk) }
func (s *supervisor) consumed(index int)                         { s.rec.consumed(index) }

// broadcast returns when all clients have been sent the chunk.
func (s *supervisor) broadcast(index int, at int64, chunk []byte) {
	if len(chunk) == 0 {
		return
	}
	s.mu.Lock()
	s.pos[index] = at + int64(len(chunk))
	subs := s.subscribers()
	s.mu.Unlock()
	var shared []byte
	for _, sub := range subs {
		got := sub.from[index] - at // what it has got from an earlier keeper
		if !sub.stream[index] || got >= int64(len(chunk)) {
			continue
		}
		if shared == nil {
			shared = append(shared, chunk...)
		}
		sub.put([]byte{frameStdout, frameStderr}[index], shared[max(0, got):])
	}
	for _, sub := range subs {
		sub.awaitSent()
	}
}

// unlimit lets clients have their output in their own time.
func (s *supervisor) unlimit() {
	s.mu.Lock()
	subs := s.subscribers()
	s.mu.Unlock()
	s.rec.limit(false)
	for _, sub := range subs {
		sub.unlimit()
	}
}

func (s *supervisor) subscribers() []*subscriber {
	if len(s.subs) == 0 {
		return nil
	}
	subs := make([]*subscriber, 0, len(s.subs))
	for sub := range s.subs {
		subs = append(subs, sub)
	}
	return subs
}

// running returns the present run.
func (s *supervisor) running() (*process, *stdio, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil, nil, fmt.Errorf("container %s is not running: %w", s.cfg.ID, errdefs.ErrConflict)
	}
	return s.proc, s.io, nil
}
