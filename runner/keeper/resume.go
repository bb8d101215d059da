package keeper

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// A client that is attached when a keeper dies goes on with the next one where it was, even if
// that dies too. Output is consumed only after it was sent to all clients, so what one of them
// has not got is in the FIFO. The next keeper leaves it there until all have returned, and
// each says how much of each stream it has got.

// returnTime is how long clients that live are awaited.
const returnTime = 10 * time.Second

// awaitClients begins to wait for the clients of the keeper before. mu is held.
func (s *supervisor) awaitClients(streams *stdio) {
	for i, f := range streams.out {
		waiting := 0
		if f != nil {
			waiting, _ = unix.IoctlGetInt(descriptor(f), unix.TIOCINQ)
		}
		if waiting == 0 { // else the pump finds out
			_, s.pos[i] = s.rec.begin(i, nil)
		}
	}
	if s.awaited = s.state.Attached; len(s.awaited) > 0 {
		s.returned = make(chan struct{})
		go s.forgetDead()
	}
}

// forgetDead ends the waiting when those who are awaited have died, or do not come.
func (s *supervisor) forgetDead() {
	for deadline := time.Now().Add(returnTime); ; {
		s.mu.Lock()
		s.forget(func(p statefile.Process) bool { return !p.Alive() || time.Now().After(deadline) })
		s.mu.Unlock()
		select {
		case <-s.returned:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// forget awaits no more those that gone says. mu is held.
func (s *supervisor) forget(gone func(statefile.Process) bool) {
	if len(s.awaited) == 0 {
		return
	}
	if s.awaited = slices.DeleteFunc(slices.Clone(s.awaited), gone); len(s.awaited) == 0 {
		close(s.returned)
	}
}

// awaitReturn returns when no client of an earlier keeper is awaited.
func (s *supervisor) awaitReturn() {
	if s.returned != nil {
		<-s.returned
	}
}

// join makes a client a subscriber and returns the position of what it gets next. mu is held.
func (s *supervisor) join(sub *subscriber, o AttachOptions) [2]int64 {
	s.subs[sub] = true
	at := s.pos
	if o.Resume {
		sub.from, at = o.At, o.At
		first := true // it may have several connections
		s.forget(func(p statefile.Process) bool {
			mine := first && p == sub.peer
			first = first && !mine
			return mine
		})
	}
	s.noteClients()
	return at
}

// leave ends a subscription. mu is held.
func (s *supervisor) leave(sub *subscriber) {
	if s.subs[sub] {
		delete(s.subs, sub)
		s.noteClients()
	}
}

// noteClients records for whom the next keeper would have to wait. mu is held.
func (s *supervisor) noteClients() {
	if s.proc != nil && !s.over {
		s.state.Attached = s.clients()
		s.save()
	}
}

func (s *supervisor) clients() []statefile.Process {
	all := slices.Clone(s.awaited)
	for sub := range s.subs {
		if sub.peer.PID != 0 {
			all = append(all, sub.peer)
		}
	}
	return all
}

// watchHolder gives a run another holder when the present one is killed.
func (s *supervisor) watchHolder(p *process, h *holder) {
	if h == nil || h.wait() != nil {
		return
	}
	s.mu.Lock()
	present := s.proc == p && s.io.holder == h && !s.io.closed
	s.mu.Unlock()
	if present {
		time.Sleep(5 * time.Millisecond) // not as fast as they may die
		s.hold(p)
	}
}
