package build

import (
	"context"

	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// Sandboxes run what a caller starts itself on the filesystems of its build. The backend that Caller.Compile gets
// has them.
type Sandboxes interface {
	// State solves def. It is for SandboxOptions.Inputs.
	State(ctx context.Context, def *pb.Definition) (op.Result, error)
	// NewSandbox makes a sandbox, which is to be closed before Compile returns.
	NewSandbox(ctx context.Context, o op.SandboxOptions) (*op.Sandbox, error)
}

var _ Sandboxes = (*backend)(nil)

// State implements Sandboxes.
func (b *backend) State(ctx context.Context, def *pb.Definition) (op.Result, error) {
	r := (*run)(b)
	def, err := r.permit(ctx, def)
	if err != nil {
		return op.Result{}, err
	}
	r.record.Read(def)
	state, err := r.solve(ctx, def, sealing{})
	if err != nil && r.o.Caller != nil {
		err = r.explain(err) // it may have asked for all of the build, and tells people itself
	}
	return state, err
}

// NewSandbox implements Sandboxes.
func (b *backend) NewSandbox(ctx context.Context, o op.SandboxOptions) (*op.Sandbox, error) {
	return b.env.NewSandbox(ctx, solver.NewConsole("", "", nil), o)
}

// SandboxFiles returns what is mounted by Mounts[i] of s, until release is called.
func SandboxFiles(s *op.Sandbox, i int) (f dockerfile.Files, release func(), err error) {
	dir, release, err := s.Files(i)
	if err != nil {
		return nil, nil, err
	}
	return files{&op.View{Dir: dir}}, release, nil
}
