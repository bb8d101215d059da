package op

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// A Failure is a command that failed, and what it left. It has that until the end of the build, where Env.KeepFailed
// says so.
type Failure struct {
	Err         error
	Op          *pb.Op            // the command
	Description map[string]string // of it, for people
	inputs      []Result

	mu      sync.Mutex
	states  map[int]*mutable // what it has changed, by mount
	results map[int]Result   // of those
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// maxFailures is of how many failed commands a build keeps what they left.
const maxFailures = 100

// keep makes a Failure of err where somebody may ask for it.
func (r *execRun) keep(err error, stubs []string) error {
	if !r.env.KeepFailed {
		return err
	}
	f := &Failure{Err: err, Op: r.whole, Description: r.description, inputs: r.inputs}
	r.env.mu.Lock()
	defer r.env.mu.Unlock()
	if len(r.env.failures) >= maxFailures {
		return f
	}
	if e := r.removeStubs(stubs); e != nil {
		f.Err = errors.Join(err, fmt.Errorf("removing mount points: %w", e))
		return f
	}
	f.states, f.results, r.kept = r.states, map[int]Result{}, true
	r.env.failures = append(r.env.failures, f)
	return f
}

// Input returns what the command found at its mount i; ok is false if nothing was there.
func (f *Failure) Input(i int) (res Result, ok bool) {
	in := f.Op.GetExec().Mounts[i].Input
	if in < 0 || int(in) >= len(f.inputs) {
		return Result{}, false
	}
	return f.inputs[in], true
}

// Has says whether there is something left at the mount i of the command.
func (f *Failure) Has(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.Input(i)
	return ok || f.states[i] != nil
}

// Left returns what the command left at its mount i.
func (f *Failure) Left(ctx context.Context, i int) (res Result, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.states[i]
	if m == nil {
		res, ok := f.Input(i)
		if !ok {
			return res, fmt.Errorf("the command has left nothing there: %w", errdefs.ErrNotFound)
		}
		return res, nil
	}
	if res, ok := f.results[i]; ok {
		return res, nil
	}
	if res, err = m.commit(ctx); err == nil {
		f.results[i] = res
	}
	return res, err
}

// dropFailures drops what failed commands have left and nobody asked for.
func (e *Env) dropFailures() (err error) {
	e.mu.Lock()
	all := e.failures
	e.failures = nil
	e.mu.Unlock()
	for _, f := range all {
		f.mu.Lock()
		for _, m := range f.states {
			err = errors.Join(err, m.discard(context.Background()))
		}
		f.mu.Unlock()
	}
	return err
}
