package op

import (
	"context"
	"errors"
	"sync"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// A Session runs the commands of one build. To start a container is little work beside what has to be
// there for it, so a Session has its keepers run one command after another, makes the place of the next
// command while one runs, and takes places away beside what follows. Close waits for all that.
type Session struct {
	x    *Containers
	self statefile.Process

	ctx  context.Context // of what goes on beside the commands
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	jobs    *keeper.Jobs
	running int
	ahead   []*place // made, or being made, for commands that have not come yet
	errs    []error  // of what went on beside the commands
}

var _ Executor = (*Session)(nil)

// Begin returns a Session, which needs its Close.
func (x *Containers) Begin() (*Session, error) {
	self, err := statefile.Self()
	if err != nil {
		return nil, err
	}
	s := &Session{x: x, self: self}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the keepers, removes the places that no command has used, and returns when all that
// the commands had is gone.
func (s *Session) Close() error {
	s.stop()
	s.mu.Lock()
	for _, p := range s.ahead {
		s.clear(p)
	}
	s.ahead = nil
	jobs := s.jobs
	s.mu.Unlock()
	s.work.Wait()
	err := errors.Join(s.errs...)
	if jobs != nil {
		err = errors.Join(err, jobs.Close())
	}
	return err
}

// Run implements Executor.
func (s *Session) Run(ctx context.Context, p Process) error {
	jobs, err := s.begin()
	if err != nil {
		return err
	}
	defer s.end()
	ready := make(chan error, 1)
	go func() { ready <- jobs.Ready() }()
	at, err := s.take(ctx, placeKind{p.Network, p.Cgroup})
	err = errors.Join(err, <-ready)
	if at != nil {
		defer s.clear(at)
	}
	if err != nil {
		return err
	}
	spec, err := s.x.spec(p, at.netns)
	if err != nil {
		return err
	}
	warnings, err := at.group.Update(spec.Linux.Resources)
	if err != nil {
		return err
	}
	s.x.warn(warnings)
	if p.Next != nil {
		s.expect(placeKind{*p.Next, p.Cgroup})
	}
	return s.x.run(ctx, jobs, p, spec, at)
}

// begin counts a command and returns who runs it.
func (s *Session) begin() (*keeper.Jobs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jobs == nil {
		b, err := s.x.Keeper()
		if err != nil {
			return nil, err
		}
		s.jobs = keeper.NewJobs(b)
	}
	s.running++
	return s.jobs, nil
}

func (s *Session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
}

// take gives a command its place: one that was made ahead, or a new one.
func (s *Session) take(ctx context.Context, kind placeKind) (*place, error) {
	s.mu.Lock()
	var p *place
	for i := range s.ahead {
		if s.ahead[i].kind == kind {
			p = s.ahead[i]
			s.ahead = append(s.ahead[:i:i], s.ahead[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if p != nil {
		<-p.made // takes milliseconds, whatever becomes of ctx
		if p.err == nil {
			return p, nil
		}
	}
	p = newPlace(kind, s.self) // also after a failure, which may be over
	s.x.furnish(ctx, p, s.self)
	return p, p.err
}

// expect makes a place ahead, unless there are as many as commands run.
func (s *Session) expect(kind placeKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ahead) >= s.running || s.ctx.Err() != nil {
		return
	}
	p := newPlace(kind, s.self)
	s.ahead = append(s.ahead, p)
	s.work.Go(func() { s.x.furnish(s.ctx, p, s.self) })
}

// clear takes away a place whose command has ended, beside what follows.
func (s *Session) clear(p *place) {
	s.work.Go(func() {
		<-p.made
		if err := p.leave(s.ctx); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.errs = append(s.errs, err)
		}
	})
}
