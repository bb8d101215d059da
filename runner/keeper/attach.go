package keeper

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// serveAttach gives a client the container's streams until the next exit.
func (s *supervisor) serveAttach(c *conn, q request) {
	c.c.SetReadDeadline(time.Time{})
	sub := newSubscriber(c, q.Attach)
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		c.writeJSON(frameReply, failure(fmt.Errorf("container %s is not running: %w", s.cfg.ID, errdefs.ErrConflict)))
		return
	}
	at := s.join(sub, q.Attach)
	s.work.Add(1)
	s.mu.Unlock()
	if err := c.writeJSON(frameReply, reply{At: at}); err != nil {
		sub.abandon()
	}
	s.converse(c, sub, q.Attach.Stdin)
}

// converse serves an attached client: output by the subscriber, input here. It returns
// when the client is gone, or has finished what it claimed.
func (s *supervisor) converse(c *conn, sub *subscriber, stdin bool) (done bool) {
	go func() {
		defer s.work.Done()
		sub.run()
	}()
	done, detached := s.input(c, stdin)
	if stdin && !done && !detached {
		s.endInput()
	}
	s.mu.Lock()
	s.leave(sub)
	s.mu.Unlock()
	sub.abandon()
	return done
}

// input passes on what a client sends.
func (s *supervisor) input(c *conn, stdin bool) (done, detached bool) {
	for {
		kind, payload, err := c.read()
		if err != nil {
			return false, detached
		}
		switch kind {
		case frameStdin:
			if _, streams, err := s.running(); err == nil && stdin {
				streams.write(payload) // a container that reads no more is no error
			}
		case frameEOF:
			if stdin {
				s.endInput()
			}
		case frameDetach:
			detached = true
		case frameDone:
			return true, false
		}
	}
}

// endInput follows the end of an attached client's input.
func (s *supervisor) endInput() {
	if !s.cfg.StdinOnce {
		return
	}
	p, streams, err := s.running()
	if err == nil && streams.closeInput() {
		s.hold(p) // the present holder has the other copy
	}
}
