package keeper

import (
	"fmt"
	"os"

	"github.com/teu-dev/teu/cache/statefile"
)

// adopt goes on with a container whose keeper died.
func (s *supervisor) adopt(c *conn) bool {
	switch s.state.Status {
	case Running, Paused:
		s.resumeRun()
	case Restarting:
		if err := s.launch(); err != nil {
			c.writeJSON(frameReply, failure(err))
			s.mu.Lock()
			s.state.Status, s.state.ExitCode, s.state.Error = Exited, codeOf(err), err.Error()
			s.save()
			s.mu.Unlock()
			return false
		}
	default: // it ended with its keeper, or before
		c.writeJSON(frameReply, reply{})
		return false
	}
	c.writeJSON(frameReply, reply{PID: s.proc.id.PID})
	c.Close()
	return true
}

// resumeRun takes hold of the process and the streams of a run that another keeper
// began. If the process has ended meanwhile, its output may still wait.
func (s *supervisor) resumeRun() {
	p, err := adoptProcess(s.state.Init)
	if err != nil {
		p = lostProcess(s.state.Init)
	}
	streams := &stdio{cfg: s.cfg}
	if s.state.Holder.PID != 0 {
		streams.holder = &holder{id: s.state.Holder}
	}
	if err := s.reopen(streams); err != nil {
		fmt.Fprintln(os.Stderr, "adopting the streams:", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Stopped { // by a keeper that died while it stopped the container
		s.forbidRestart()
	}
	s.save()
	s.enter(p, streams)
}

func (s *supervisor) reopen(streams *stdio) error {
	if s.cfg.TTY {
		if streams.holder == nil {
			return fmt.Errorf("the terminal was lost")
		}
		f, err := streams.holder.take()
		if err != nil {
			return err
		}
		defer f.Close()
		return streams.useConsole(f)
	}
	if streams.holder != nil && streams.holder.id.Alive() {
		if err := streams.openInputEnd(); err != nil {
			fmt.Fprintln(os.Stderr, "adopting standard input:", err)
		}
	}
	return streams.openOutputs()
}

// lostProcess stands for one that is gone without a trace of its exit status.
func lostProcess(id statefile.Process) *process { return &process{id: id} }
