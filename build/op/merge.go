package op

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/layer"
)

// mergeOp lays states on top of each other: COPY --link. Layers do not know what is below
// them, so there is nothing to do but to count them up.
type mergeOp struct{ op *pb.MergeOp }

// Key implements solver.Op.
func (m *mergeOp) Key(ctx context.Context) (solver.Key, error) {
	dt, err := json.Marshal(struct {
		Type  string
		Merge *pb.MergeOp
	}{"buildkit.merge.v0", m.op})
	return solver.Key{Digest: digest.FromBytes(dt), Reads: []bool{}}, err
}

// ContentKeys implements solver.Op.
func (m *mergeOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op.
func (m *mergeOp) Run(ctx context.Context, c *solver.Console, inputs []Result) ([]Result, error) {
	var out Result
	for _, in := range m.op.Inputs {
		if in.Input == -1 {
			continue
		}
		if in.Input < 0 || int(in.Input) >= len(inputs) {
			return nil, fmt.Errorf("merge of input %d of %d: %w", in.Input, len(inputs), errdefs.ErrInvalidArgument)
		}
		r, err := solid(ctx, c, inputs[in.Input])
		if err != nil {
			return nil, err
		}
		// Nobody could mount more, and sixty merges of a state with itself have 2^60.
		if out.Layers = append(out.Layers, r.Layers...); len(out.Layers) > layer.MaxStack {
			return nil, fmt.Errorf("merge of more than %d layers: %w", layer.MaxStack, errdefs.ErrInvalidArgument)
		}
	}
	return []Result{out}, nil
}

// solid returns r as layers, also where it is a directory outside the store.
func solid(ctx context.Context, c *solver.Console, r Result) (Result, error) {
	if r.Local == nil {
		return r, nil
	}
	return r.Local.solid(ctx, c)
}

// passthroughOp returns some of its inputs as they are. The others have to have been made.
type passthroughOp struct{ op *pb.PassthroughOp }

// Key implements solver.Op.
func (p *passthroughOp) Key(context.Context) (solver.Key, error) {
	dt, err := json.Marshal(struct {
		Type        string
		Passthrough *pb.PassthroughOp
	}{"buildkit.passthrough.v0", p.op})
	return solver.Key{Digest: digest.FromBytes(dt), Reads: []bool{}}, err
}

// ContentKeys implements solver.Op.
func (p *passthroughOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op.
func (p *passthroughOp) Run(ctx context.Context, c *solver.Console, inputs []Result) ([]Result, error) {
	out := make([]Result, len(p.op.Outputs))
	for i, in := range p.op.Outputs {
		if in < 0 || int(in) >= len(inputs) {
			return nil, fmt.Errorf("passing input %d of %d: %w", in, len(inputs), errdefs.ErrInvalidArgument)
		}
		var err error
		if out[i], err = solid(ctx, c, inputs[in]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// diffOp takes the layers of one state off another that was made from it.
type diffOp struct {
	env *Env
	op  *pb.DiffOp
}

// Key implements solver.Op.
func (d *diffOp) Key(ctx context.Context) (solver.Key, error) {
	dt, err := json.Marshal(struct {
		Type string
		Diff *pb.DiffOp
	}{"buildkit.diff.v0", d.op})
	return solver.Key{Digest: digest.FromBytes(dt), Reads: []bool{}}, err
}

// ContentKeys implements solver.Op.
func (d *diffOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op. States of which neither is the beginning of the other would have
// to be compared file by file, which nothing the Dockerfile language can say asks for.
func (d *diffOp) Run(ctx context.Context, c *solver.Console, inputs []Result) ([]Result, error) {
	next := 0
	input := func(i int64) (Result, error) {
		if i == -1 {
			return Result{}, nil
		}
		if next++; next > len(inputs) {
			return Result{}, fmt.Errorf("diff with %d inputs: %w", len(inputs), errdefs.ErrInvalidArgument)
		}
		return inputs[next-1], nil
	}
	lower, err := input(d.op.Lower.Input)
	if err != nil {
		return nil, err
	}
	upper, err := input(d.op.Upper.Input)
	if err != nil {
		return nil, err
	}
	if len(lower.Layers) == 0 && lower.Local == nil {
		return []Result{upper}, nil
	}
	if len(lower.Layers) > len(upper.Layers) || upper.Local != nil || lower.Local != nil {
		return nil, errUnrelated
	}
	for i := range lower.Layers {
		if a, b := lower.Layers[i], upper.Layers[i]; a.ID != b.ID || a.DiffID != b.DiffID {
			return nil, errUnrelated
		}
	}
	return []Result{{Layers: upper.Layers[len(lower.Layers):]}}, nil
}

var errUnrelated = fmt.Errorf("difference of two filesystems of which one was not made from the other: %w", errdefs.ErrNotImplemented)
