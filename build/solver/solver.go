// Package solver finds the results of a graph of operations, from a cache where it can.
package solver

import (
	"context"
	"errors"
)

// Options of a Solver.
type Options struct {
	Parallel int         // how many operations run at once; 0 means one per CPU
	Events   func(Event) // called from several goroutines, in order for one vertex
}

// A Solver solves graphs that share vertices, for the time of one build.
type Solver[R any] struct {
	cache Cache[R]
	opts  Options
}

// New returns a Solver that remembers results in cache.
func New[R any](cache Cache[R], o Options) *Solver[R] {
	return &Solver[R]{cache: cache, opts: o}
}

// Solve returns the result of e.
func (s *Solver[R]) Solve(ctx context.Context, e Edge[R]) (R, error) {
	var zero R
	return zero, errors.New("not implemented")
}

// A VertexError is the failure of one vertex.
type VertexError struct {
	Vertex string // its ID
	Name   string
	Err    error
}

func (e *VertexError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *VertexError) Unwrap() error { return e.Err }
