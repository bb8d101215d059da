// Package solver finds the results of a graph of operations, from a cache where it can.
//
// What is passed from vertex to vertex is a record: a canonical key and where the result
// is, not its bytes. A vertex is resolved so:
//
//	it can be foreseen (foresee.go) -> that record          without its inputs
//	in  := the records of its inputs, resolved in parallel
//	key := combine(Op.Key, canonical key of each input)
//	cache has key -> that record                            nothing was read, nothing fetched
//	ck  := combine(Op.Key, Op.ContentKeys(in))              only now bytes are needed
//	cache has ck  -> that record, and key becomes its alias
//	wait for a slot; Op.Run(in); the result is a new record under ck, with key as an alias
//
// Keys chain on the record that was found, not on the key that led to it: if a COPY is
// found by content, although its context changed elsewhere, all that stands on it is found too.
//
// The solver knows nothing of images, files or processes.
package solver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Options of a Solver.
type Options struct {
	Parallel int         // how many operations run at once; 0 means one per CPU
	Events   func(Event) // called from several goroutines, in order for one vertex; may be nil
}

// A Solver solves graphs that share vertices, for the time of one build. It is safe for
// concurrent use.
type Solver[R any] struct {
	id    string // unlike that of any other
	cache Cache[R]
	emit  func(Event)
	slots chan struct{}
	lines chan struct{} // of those who wait for the lock of a key

	mu      sync.Mutex
	flights map[digest.Digest]*flight[R] // by vertex
	studies map[digest.Digest]*study[R]  // by vertex
	fresh   map[digest.Digest]node[R]    // what was made here in spite of the cache, by key
}

// New returns a Solver that remembers results in cache.
func New[R any](cache Cache[R], o Options) *Solver[R] {
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	return &Solver[R]{
		id:      rand.Text(),
		cache:   cache,
		emit:    o.Events,
		slots:   make(chan struct{}, o.Parallel),
		lines:   make(chan struct{}, maxLocks+o.Parallel),
		flights: map[digest.Digest]*flight[R]{},
		studies: map[digest.Digest]*study[R]{},
		fresh:   map[digest.Digest]node[R]{},
	}
}

// maxLocks is how many more vertices of a Solver than run at once ask for the lock of their key, or hold it: a thread may have
// to wait for each, and a process has 10,000. Whoever holds a lock waits for a slot only, so the others get it.
const maxLocks = 64

// A VertexError is the failure of one vertex.
type VertexError struct {
	Vertex digest.Digest
	Name   string
	Err    error
}

func (e *VertexError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *VertexError) Unwrap() error { return e.Err }

// Solve returns the result of e. The first vertex that fails ends all that this call
// started; its failure is a *VertexError.
func (s *Solver[R]) Solve(ctx context.Context, e Edge[R]) (R, error) {
	var zero R
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n, err := s.resolve(ctx, cancel, e.Vertex)
	if err != nil {
		var first *VertexError
		if errors.As(context.Cause(ctx), &first) {
			err = first
		}
		return zero, err
	}
	return n.output(e.Index)
}

// Known returns the result of e if it was found or made.
func (s *Solver[R]) Known(e Edge[R]) (r R, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[e.Vertex.ID]; f != nil && Over(f.done) && f.err == nil {
		r, err := f.node.output(e.Index)
		return r, err == nil
	}
	if st := s.studies[e.Vertex.ID]; st != nil && st.done != nil && Over(st.done) && st.found {
		r, err := st.node.output(e.Index)
		return r, err == nil
	}
	return r, false
}

// Over says whether done is closed.
func Over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// A node is a vertex that was resolved.
type node[R any] struct {
	record Record[R]
	// transient: the key means nothing outside this build, so nothing that has it in its
	// own key may be looked up or remembered.
	transient bool
}

func (n node[R]) output(i int) (R, error) {
	if i < 0 || i >= len(n.record.Outputs) {
		var zero R
		return zero, fmt.Errorf("output %d of an operation that has %d", i, len(n.record.Outputs))
	}
	return n.record.Outputs[i], nil
}

// A flight is a vertex that is being resolved, or was.
type flight[R any] struct {
	done chan struct{} // closed when the rest is set
	node node[R]
	err  error
	// givenUp: the call that led ended before the vertex was resolved, and the next one that wants it leads. An
	// operation may fail with context.Canceled too, as when a client goes that it fetches from; that is a failure.
	givenUp bool
}

// resolve returns the node of v; the first to ask does the work. fail ends the whole call.
func (s *Solver[R]) resolve(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R]) (node[R], error) {
	for {
		f, first := s.join(v.ID)
		if first {
			s.lead(ctx, fail, v, f)
			return f.node, f.err
		}
		select {
		case <-ctx.Done():
			return node[R]{}, context.Cause(ctx)
		case <-f.done:
		}
		if !f.givenUp || ctx.Err() != nil {
			return f.node, f.err
		}
	}
}

func (s *Solver[R]) join(id digest.Digest) (f *flight[R], first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[id]; ok {
		return f, false
	}
	f = &flight[R]{done: make(chan struct{})}
	s.flights[id] = f
	return f, true
}

func (s *Solver[R]) lead(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R], f *flight[R]) {
	defer close(f.done)
	if key, err := s.opKey(ctx, v); err == nil && !key.Live {
		if p := s.foresee(ctx, fail, v); p.found {
			f.node = p.node
			s.tellFound(v)
			return
		}
	}
	inputs, err := s.inputs(ctx, fail, v)
	if err == nil {
		f.node, err = s.solve(ctx, v, inputs)
	}
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		s.mu.Lock()
		delete(s.flights, v.ID)
		s.mu.Unlock()
		f.err, f.givenUp = context.Canceled, true
		return
	}
	f.err = err
	fail(err)
}

// An input is an input of a vertex that was resolved.
type input[R any] struct {
	key       digest.Digest // of this output of the record
	plain     digest.Digest // likewise, see Record.Plain
	transient bool
	value     R
}

// newInput returns output i of n, without its value.
func newInput[R any](n node[R], i int) input[R] {
	return input[R]{key: outputKey(n.record.Key, i), plain: outputKey(n.record.plain(), i), transient: n.transient}
}

// inputs resolves what v stands on, in parallel.
func (s *Solver[R]) inputs(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R]) ([]input[R], error) {
	list := make([]input[R], len(v.Inputs))
	errs := make([]error, len(v.Inputs))
	one := func(i int) {
		n, err := s.resolve(ctx, fail, v.Inputs[i].Vertex)
		if err != nil {
			errs[i] = err
			return
		}
		value, err := n.output(v.Inputs[i].Index)
		list[i] = newInput(n, v.Inputs[i].Index)
		list[i].value = value
		if err != nil {
			errs[i] = &VertexError{v.ID, v.Name, err}
		}
	}
	var wg sync.WaitGroup
	for i := 1; i < len(v.Inputs); i++ {
		wg.Go(func() { one(i) })
	}
	if len(v.Inputs) > 0 {
		one(0) // here: a chain of steps needs no goroutines
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}
