package keeper

import (
	"fmt"
	"os"
	"time"
)

// adopt goes on with a container whose keeper died.
func (s *supervisor) adopt(c *conn) bool {
	switch s.state.Status {
	case Running, Paused, Restarting:
		s.rec.beginSending(false)
	}
	switch s.state.Status {
	case Running, Paused:
		s.resumeRun()
	case Restarting:
		if err := EndHolders(s.cfg.RunDir, s.state); err != nil {
			c.writeJSON(frameReply, failure(err))
			return false
		}
		s.clear()
		s.stop = s.state.Stopped // by a keeper that did not live to say that it has ended
		if !s.relaunch() {       // of which the state tells
			c.writeJSON(frameReply, reply{})
			c.Close()
			s.retire()
			return false
		}
	default: // it ended with its keeper, or before
		c.writeJSON(frameReply, reply{})
		return false
	}
	if h := s.io.holder; h == nil || !h.id.Alive() {
		s.hold(s.proc)
	}
	s.adoptCommands()
	c.writeJSON(frameReply, reply{PID: s.proc.id.PID})
	c.Close()
	return true
}

// resumeRun takes hold of the process and the streams of a run that another keeper
// began. If the process has ended meanwhile, its output may still wait.
func (s *supervisor) resumeRun() {
	streams := &stdio{cfg: s.cfg, holder: s.findHolder()}
	p := s.findProcess(streams.holder)
	if err := s.reopen(streams); err != nil {
		fmt.Fprintln(os.Stderr, "adopting the streams:", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Stopped { // by a keeper that died while it stopped the container
		s.forbidRestart(true)
	}
	if s.cfg.Cgroup.Freeze != "" { // a keeper may have died between freezing it and saying so
		s.state.Status = Running
		if s.frozen() {
			s.state.Status = Paused
		}
	}
	s.awaitClients(streams)
	s.save()
	s.enter(p, streams)
	if h := s.state.Health; h != nil && h.Status == HealthUnhealthy && s.cfg.Health != nil && s.cfg.Health.OnFailure != "" {
		go s.unhealthy(p) // the keeper that found it out may have died before it did
	}
}

// clear ends a run that a keeper began and did not live to record: there must not be two.
func (s *supervisor) clear() {
	for range 400 {
		if b, err := os.ReadFile(s.cfg.Cgroup.ProcFile); err != nil || len(b) == 0 {
			return
		}
		killAll(s.cfg.Cgroup)
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *supervisor) reopen(streams *stdio) error {
	if s.cfg.TTY {
		f, err := streams.holder.take(heldConsole)
		if err != nil {
			return err
		}
		defer f.Close()
		return streams.useConsole(f)
	}
	if s.cfg.OpenStdin && streams.holder.id.Alive() {
		f, err := streams.holder.take(heldInput)
		if err != nil {
			return err
		}
		streams.in = f
	}
	return streams.openOutputs()
}

// findHolder returns the holder of a run that another keeper began, and ends others that it
// may have left in the middle of a change.
func (s *supervisor) findHolder() *holder {
	found := &holder{id: s.state.Holder}
	all, err := recorded(s.cfg.RunDir, recordPrefix)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, h := range all {
		switch {
		case h.id == found.id:
			found.record = h.record
		case found.id.Alive():
			h.end()
		case h.id.Alive():
			found.end()
			found, s.state.Holder = h, h.id
		default:
			h.end()
		}
	}
	return found
}

// findProcess takes the container's process from the holder, from the list of processes,
// or, if it is gone without a trace of its exit status, makes one that stands for it.
func (s *supervisor) findProcess(h *holder) *process {
	if f, err := h.take(heldPidfd); err == nil {
		return &process{id: s.state.Init, pidfd: f}
	}
	p, err := adoptProcess(s.state.Init)
	if err != nil {
		return &process{id: s.state.Init}
	}
	return p
}
