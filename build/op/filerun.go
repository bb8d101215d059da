package op

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A fileRun is one run of a file operation. The states it works on are numbered: first come
// the inputs, then what each action made.
type fileRun struct {
	op      *fileOp
	console *solver.Console
	states  []fileState
	uses    []int // how many actions read a state
}

// A fileState is either finished or still being changed.
type fileState struct {
	result *Result
	m      *mutable
}

// Run implements solver.Op.
func (f *fileOp) Run(ctx context.Context, c *solver.Console, inputs []Result) (_ []Result, err error) {
	r := &fileRun{op: f, console: c, uses: make([]int, f.inputs+len(f.op.Actions))}
	for i := range inputs {
		r.states = append(r.states, fileState{result: &inputs[i]})
	}
	defer func() {
		for _, s := range r.states {
			if s.m != nil {
				err = errors.Join(err, s.m.discard(ctx))
			}
		}
	}()
	for _, a := range f.op.Actions {
		for _, in := range []int64{a.Input, a.SecondaryInput} {
			if in >= 0 {
				r.uses[in]++
			}
		}
	}
	var outputs []Result
	for i, a := range f.op.Actions {
		if err := r.step(ctx, a); err != nil {
			return nil, err
		}
		if a.Output < 0 {
			continue
		}
		for int(a.Output) >= len(outputs) {
			outputs = append(outputs, Result{})
		}
		outputs[a.Output] = *r.states[f.inputs+i].result
	}
	return outputs, nil
}

// step performs one action and appends the state it makes.
func (r *fileRun) step(ctx context.Context, a *pb.FileAction) error {
	own, err := resolveOwner(ownerOf(a), func(input int64) (*rootfs.Dir, func() error, error) {
		return r.look(ctx, input)
	})
	if err != nil {
		return err
	}
	m, err := r.begin(ctx, a.Input)
	if err != nil {
		return err
	}
	r.states = append(r.states, fileState{m: m})
	if err := r.perform(ctx, a, m, own); err != nil {
		return err
	}
	i := len(r.states) - 1
	if a.Output < 0 && r.uses[i] <= 1 {
		return nil // the only one who reads it goes on with it
	}
	return r.finish(ctx, i)
}

// begin returns the state an action works on.
func (r *fileRun) begin(ctx context.Context, input int64) (*mutable, error) {
	if input < 0 {
		return r.op.env.prepare(ctx, r.console, Result{})
	}
	s := &r.states[input]
	if s.result == nil {
		m := s.m
		s.m = nil // taken over
		if m == nil {
			return nil, fmt.Errorf("the state %d is used twice: %w", input, errdefs.ErrInvalidArgument)
		}
		return m, nil
	}
	return r.op.env.prepare(ctx, r.console, *s.result)
}

// finish makes a result of the state i.
func (r *fileRun) finish(ctx context.Context, i int) error {
	s := &r.states[i]
	if s.result != nil {
		return nil
	}
	res, err := s.m.commit(ctx)
	if err != nil {
		return err
	}
	*s = fileState{result: &res}
	return nil
}

// look opens a state for reading, as it is now.
func (r *fileRun) look(ctx context.Context, input int64) (*rootfs.Dir, func() error, error) {
	s := r.states[input]
	if s.result == nil {
		if s.m == nil {
			return nil, nil, fmt.Errorf("the state %d is gone: %w", input, errdefs.ErrInvalidArgument)
		}
		dir, err := s.m.open()
		return dir, func() error { return nil }, err
	}
	dir, err := r.op.env.view(ctx, r.console, *s.result)
	if err != nil {
		return nil, nil, err
	}
	return dir, dir.Close, nil
}

// perform changes m as the action says.
func (r *fileRun) perform(ctx context.Context, a *pb.FileAction, m *mutable, own *owner) error {
	if c := a.GetCopy(); c != nil {
		return r.copy(ctx, a.SecondaryInput, m, c, own)
	}
	dir, err := m.open()
	if err != nil {
		return err
	}
	switch t := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return mkdir(dir, t.Mkdir, own)
	case *pb.FileAction_Mkfile:
		return mkfile(dir, t.Mkfile, own)
	case *pb.FileAction_Symlink:
		return symlink(dir, t.Symlink, own)
	case *pb.FileAction_Rm:
		return rm(dir, t.Rm)
	}
	return fmt.Errorf("file action %T: %w", a.Action, errdefs.ErrNotImplemented)
}

// copy performs a copy action from the state input.
func (r *fileRun) copy(ctx context.Context, input int64, m *mutable, a *pb.FileActionCopy, own *owner) (err error) {
	var from Result
	if input >= 0 {
		if err := r.finish(ctx, int(input)); err != nil {
			return err
		}
		from = *r.states[input].result
	}
	src, err := r.op.env.source(ctx, r.console, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return m.copy(func(dst destination) error { return copyAction(ctx, src, dst, a, own, r.op.env.warn) })
}
