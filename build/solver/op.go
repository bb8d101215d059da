package solver

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// An Op is what a vertex does. R is what vertices pass to each other; it should be a
// light value whose bytes are made only when somebody asks for them.
//
// The solver calls Key, then, if the cache knows nothing under that key, ContentKeys, then,
// if that did not help either, Run; each until it succeeded once. Implementations need not be safe for
// concurrent use, but the R values are: one output can be the input of several vertices at once.
type Op[R any] interface {
	// Key says what the operation is, without its inputs.
	Key(ctx context.Context) (Key, error)

	// ContentKeys returns, for each input, the digest of exactly what the operation reads
	// from it, or "" for an input which counts as a whole, by the key of its record.
	// A nil slice means that the operation reads all its inputs as a whole. This is the first
	// moment when an operation may look at the bytes of its inputs; see also Key.Reads.
	ContentKeys(ctx context.Context, c *Console, inputs []R) ([]digest.Digest, error)

	// Run performs the operation and returns its outputs in order.
	Run(ctx context.Context, c *Console, inputs []R) ([]R, error)
}

// A Key identifies an operation.
type Key struct {
	// Digest covers everything that decides the outcome of the operation, except its inputs:
	// the manifest or chain digest of an image, a commit, the arguments of a command. Never a
	// name that can be moved. Empty: nothing lasting identifies it (a directory of this
	// machine); what is behind it can then only be found by content.
	Digest digest.Digest

	// Content stands for Digest beside content keys; empty means Digest. It leaves out what
	// the content keys say better: COPY a/x and COPY b/x of equal files have one Content.
	Content digest.Digest

	// Reads says of each input whether ContentKeys looks at it; nil means at all of them. Only
	// those are sure to be there when it is called to find out what is known already.
	Reads []bool

	// Live is set by sources which are always there and cheap to Run: they run in every
	// build without waiting for a slot, and the cache does not hold their results.
	Live bool
}

// A Vertex is an operation and where its inputs come from.
type Vertex[R any] struct {
	ID     digest.Digest // unique in one Solver; equal vertices of several Solve calls are solved once
	Name   string        // for people: "[2/3] RUN make"
	Op     Op[R]
	Inputs []Edge[R]

	// IgnoreCache runs the operation even if its result is known. The result gets a new
	// identity, so that nothing behind it is found by definition either, only by content.
	IgnoreCache bool
}

// An Edge is one output of a vertex.
type Edge[R any] struct {
	Vertex *Vertex[R]
	Index  int
}
