package build

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
)

// sealing says what happens to layers as they are made.
type sealing struct {
	spine bool // seal those that will be layers of the image, beside the steps that follow
	epoch *time.Time
}

// solve returns the filesystem that def makes.
func (r *run) solve(ctx context.Context, def *pb.Definition, s sealing) (op.Result, error) {
	def, err := r.permit(ctx, def)
	if err != nil {
		return op.Result{}, err
	}
	g, err := graph.Load(def, content.Host())
	if err != nil {
		return op.Result{}, err
	}
	if g.Root.Vertex == nil {
		return op.Result{}, nil
	}
	spine := map[*graph.Vertex]bool{}
	if s.spine {
		markSpine(g.Root.Vertex, spine)
	}
	made := make(map[*graph.Vertex]*solver.Vertex[op.Result], len(g.Vertices))
	for _, v := range g.Vertices {
		operation, err := r.env.Op(v)
		if err != nil {
			return op.Result{}, &solver.VertexError{Vertex: v.Digest, Name: v.Name, Err: err}
		}
		operation = r.history.watch(v, operation)
		if r.record != nil && v.Op.GetSource() != nil {
			operation = pinnedOp{Op: operation, record: r.record, id: v.Digest}
		}
		if spine[v] {
			operation = sealedOp{Op: operation, seal: func(res op.Result) { r.sealer.seal(res, s.epoch) }}
		}
		sv := &solver.Vertex[op.Result]{ID: v.Digest, Name: v.Name, Op: operation, IgnoreCache: v.Metadata.IgnoreCache}
		for _, in := range v.Inputs {
			sv.Inputs = append(sv.Inputs, solver.Edge[op.Result]{Vertex: made[in.Vertex], Index: in.Index})
		}
		made[v] = sv
		r.journal.add(v)
	}
	if s.spine {
		r.noteSteps(made)
	}
	return r.solver.Solve(ctx, solver.Edge[op.Result]{Vertex: made[g.Root.Vertex], Index: g.Root.Index})
}

// markSpine marks the vertices whose layers are those of v's result: what v changes, not what it
// only reads.
func markSpine(v *graph.Vertex, spine map[*graph.Vertex]bool) {
	for v != nil && !spine[v] {
		spine[v] = true
		if v.Op.GetMerge() != nil {
			for _, in := range v.Inputs {
				markSpine(in.Vertex, spine)
			}
		}
		v = v.Below()
	}
}

// A sealedOp tells of what it made.
type sealedOp struct {
	solver.Op[op.Result]
	seal func(op.Result)
}

func (o sealedOp) Run(ctx context.Context, c *solver.Console, in []op.Result) ([]op.Result, error) {
	out, err := o.Op.Run(ctx, c, in)
	if err == nil && len(out) > 0 {
		o.seal(out[0])
	}
	return out, err
}

// step does something that people may want to see as a step of its own.
func (r *run) step(ctx context.Context, name string, do func(c *solver.Console) error) error {
	id := digest.FromString(r.scratch.Path() + name) // builds that are shown together have steps of one name
	c := solver.NewConsole(id, name, r.journal.event)
	c.Begin()
	err := do(c)
	if err != nil && ctx.Err() != nil {
		err = context.Canceled
	}
	c.End(err)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
