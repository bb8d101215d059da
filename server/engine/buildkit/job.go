package buildkit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/build/solver"
)

// A job is one Solve, and those who look at it. The client begins all its calls at once, so Solve need not
// be the first to come.
type job struct {
	feed   feed
	begun  chan struct{} // Solve has come
	open   chan struct{} // bridge may be used
	done   chan struct{} // Solve has ended
	bridge *bridge
}

// jobs are those that run, and for a while those that ended, by the ref that the client gave.
type jobs struct {
	mu  sync.Mutex
	all map[string]*job
}

// How long clients of a job may come before it, and how long its status stays for one who comes late.
const (
	jobComes = 5 * time.Second
	jobStays = 10 * time.Second
)

// maxJobs is how many jobs there may be at once.
const maxJobs = 1000

// get returns the job ref, which may not have begun yet. With begin it has: it is for the one Solve of a job.
func (s *jobs) get(ref string, begin bool) (*job, error) {
	if ref == "" {
		return nil, fmt.Errorf("a build without a ref: %w", errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.all[ref]
	if j == nil {
		if len(s.all) >= maxJobs {
			return nil, fmt.Errorf("%d builds at once: %w", maxJobs, errdefs.ErrResourceExhausted)
		}
		j = &job{begun: make(chan struct{}), open: make(chan struct{}), done: make(chan struct{})}
		j.feed.init()
		s.all[ref] = j
		if !begin {
			time.AfterFunc(jobComes, func() { s.forget(ref, j, j.begun) })
		}
	}
	if begin {
		if solver.Over(j.begun) {
			return nil, fmt.Errorf("build %s: %w", ref, errdefs.ErrAlreadyExists)
		}
		close(j.begun)
	}
	return j, nil
}

// known says whether there is a job ref.
func (s *jobs) known(ref string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[ref] != nil
}

// forget takes j out, unless that has happened.
func (s *jobs) forget(ref string, j *job, unless <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[ref] != j || unless != nil && solver.Over(unless) {
		return
	}
	delete(s.all, ref)
	j.feed.close()
}

// end tells all who look at j that it is over.
func (s *jobs) end(ref string, j *job) {
	close(j.done)
	j.feed.close()
	time.AfterFunc(jobStays, func() { s.forget(ref, j, nil) })
}

// offer lets the client of j use a bridge.
func (j *job) offer(b *bridge) {
	j.bridge = b
	close(j.open)
}

// wait returns the bridge of j when there is one.
func (j *job) wait(ctx context.Context) (*bridge, error) {
	comes := time.NewTimer(jobComes)
	defer comes.Stop()
	select {
	case <-j.begun:
	case <-comes.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if !solver.Over(j.begun) {
		return nil, fmt.Errorf("no such build: %w", errdefs.ErrNotFound)
	}
	select {
	case <-j.open:
		return j.bridge, nil
	case <-j.done:
		return nil, fmt.Errorf("the build has ended: %w", errdefs.ErrNotFound)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
