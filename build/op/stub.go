package op

import (
	"context"
	"errors"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

var errTODO = errors.New("not written yet")

type Local struct{}
type imageFlight struct{}
type Process struct{}
type mergeOp struct {
	todoOp
	op *pb.MergeOp
}
type diffOp struct {
	todoOp
	op *pb.DiffOp
}
type todoOp struct{}

func (todoOp) Key(ctx context.Context) (solver.Key, error) { return solver.Key{}, errTODO }
func (todoOp) ContentKeys(ctx context.Context, c *solver.Console, inputs []Result) ([]digest.Digest, error) {
	return nil, errTODO
}
func (todoOp) Run(ctx context.Context, c *solver.Console, inputs []Result) ([]Result, error) {
	return nil, errTODO
}
func (e *Env) sourceOp(v *graph.Vertex, o *pb.SourceOp) (solver.Op[Result], error) {
	return todoOp{}, nil
}
func (e *Env) fileOp(v *graph.Vertex, o *pb.FileOp) (solver.Op[Result], error) { return todoOp{}, nil }
func (e *Env) execOp(v *graph.Vertex, o *pb.ExecOp) (solver.Op[Result], error) { return todoOp{}, nil }
