package runner

import "github.com/teu-dev/teu/runner/keeper"

// spare is a keeper that is being started for a container.
type spare struct {
	id   string // of the container
	done chan struct{}
	k    *keeper.Spare
	err  error
}

func (e *Engine) newSpare(id string) *spare {
	s := &spare{id: id, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		b, err := e.placedKeeper()
		if err == nil {
			s.k, err = b.Spare(e.runDir(id))
		}
		s.err = err
	}()
	return s
}

// keeper waits for the spare keeper.
func (s *spare) keeper() (*keeper.Spare, error) {
	<-s.done
	return s.k, s.err
}

// close ends the keeper if it was given nothing.
func (s *spare) close() {
	if k, err := s.keeper(); err == nil {
		k.Close()
	}
}

// WarmUp says that a container will be created and started next. What takes its time and
// asks for nothing begins beside whatever the caller does first: the container's ID is
// chosen and its keeper started.
func (e *Engine) WarmUp() {
	e.warmMu.Lock()
	defer e.warmMu.Unlock()
	if e.warm == nil {
		e.warm = e.newSpare(newID())
		e.reserved = e.warm.id
	}
}

// claimID returns the ID of the next container: the one WarmUp has chosen, or a new one.
func (e *Engine) claimID() string {
	e.warmMu.Lock()
	defer e.warmMu.Unlock()
	if id := e.reserved; id != "" {
		e.reserved = ""
		return id
	}
	return newID()
}

// claimSpare returns the keeper made for a container by WarmUp, or a new one. The caller
// closes it.
func (e *Engine) claimSpare(id string) *spare {
	e.warmMu.Lock()
	defer e.warmMu.Unlock()
	if s := e.warm; s != nil && s.id == id {
		e.warm = nil
		return s
	}
	return e.newSpare(id)
}
