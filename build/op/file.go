package op

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

// fileOp performs the actions of COPY, ADD, WORKDIR and here-documents.
type fileOp struct {
	env    *Env
	op     *pb.FileOp
	inputs int

	selectors map[int][]selector // by input, where content decides
}

func (e *Env) fileOp(v *graph.Vertex, o *pb.FileOp) (*fileOp, error) {
	f := &fileOp{env: e, op: o, inputs: len(v.Inputs)}
	if err := f.check(); err != nil {
		return nil, err
	}
	f.selectors = f.selected()
	return f, nil
}

// check makes sure that every index leads to an input or to an earlier action, and that the
// outputs are 0, 1, 2...
func (f *fileOp) check() error {
	outputs := map[int64]bool{}
	for i, a := range f.op.Actions {
		most := int64(f.inputs + i)
		for _, in := range []int64{a.Input, a.SecondaryInput} {
			if in < -1 || in >= most {
				return fmt.Errorf("file action %d reads %d of %d: %w", i, in, most, errdefs.ErrInvalidArgument)
			}
		}
		for _, n := range names(a) {
			if n.input == -1 {
				return fmt.Errorf("an owner given by name is looked up in the image that is copied to, which FROM scratch and --link do not have; use numbers: %w", errdefs.ErrInvalidArgument)
			}
			if n.input < 0 || n.input >= most {
				return fmt.Errorf("file action %d has an owner in %d of %d: %w", i, n.input, most, errdefs.ErrInvalidArgument)
			}
		}
		if a.Output < -1 || a.Output >= 0 && outputs[a.Output] {
			return fmt.Errorf("file action %d makes output %d: %w", i, a.Output, errdefs.ErrInvalidArgument)
		}
		if a.Output >= 0 {
			outputs[a.Output] = true
		}
	}
	for i := range int64(len(outputs)) {
		if !outputs[i] {
			return fmt.Errorf("file operation without output %d: %w", i, errdefs.ErrInvalidArgument)
		}
	}
	if len(outputs) == 0 {
		return fmt.Errorf("file operation without outputs: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// named is an owner given by name, and where the file is that knows it.
type named struct {
	input int64
	file  string
}

func names(a *pb.FileAction) (list []named) {
	o := ownerOf(a)
	if u, ok := o.GetUser().GetUser().(*pb.UserOpt_ByName); ok {
		list = append(list, named{u.ByName.Input, "/etc/passwd"})
	}
	if g, ok := o.GetGroup().GetUser().(*pb.UserOpt_ByName); ok {
		list = append(list, named{g.ByName.Input, "/etc/group"})
	}
	return list
}

func ownerOf(a *pb.FileAction) *pb.ChownOpt {
	switch a := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return a.Mkdir.Owner
	case *pb.FileAction_Mkfile:
		return a.Mkfile.Owner
	case *pb.FileAction_Symlink:
		return a.Symlink.Owner
	case *pb.FileAction_Copy:
		return a.Copy.Owner
	}
	return nil
}

// selected returns what the operation reads of each input. An input that is changed counts
// whole, whatever else is read from it, as in BuildKit.
func (f *fileOp) selected() map[int][]selector {
	sels := map[int][]selector{}
	whole := map[int]bool{}
	for _, a := range f.op.Actions {
		whole[int(a.Input)] = true
		for _, n := range names(a) {
			if int(n.input) < f.inputs {
				s := selector{path: n.file}
				s.FollowLinks = true
				sels[int(n.input)] = append(sels[int(n.input)], s)
			}
		}
		if c := a.GetCopy(); c != nil && a.SecondaryInput >= 0 && int(a.SecondaryInput) < f.inputs {
			s := selector{path: c.Src}
			s.Wildcard = c.AllowWildcard && hasWildcards(c.Src)
			s.FollowLinks = c.FollowSymlink
			s.Include, s.Exclude, s.Required = c.IncludePatterns, c.ExcludePatterns, c.RequiredPaths
			sels[int(a.SecondaryInput)] = append(sels[int(a.SecondaryInput)], s)
		}
	}
	for i := range whole {
		delete(sels, i)
	}
	return sels
}

// Key implements solver.Op; it is the CacheMap of BuildKit's llbsolver/ops/file.go.
func (f *fileOp) Key(ctx context.Context) (solver.Key, error) {
	actions := make([][]byte, len(f.op.Actions))
	indexes := make([][]int, len(f.op.Actions))
	for i, a := range f.op.Actions {
		var err error
		if actions[i], err = f.actionKey(a); err != nil {
			return solver.Key{}, err
		}
		indexes[i] = []int{int(a.Input), int(a.SecondaryInput), int(a.Output)}
	}
	if usualIndexes(indexes) {
		indexes = nil
	}
	dt, err := json.Marshal(struct {
		Type    string
		Actions [][]byte
		Indexes [][]int `json:"indexes,omitempty"`
	}{"buildkit.file.v0", actions, indexes})
	if err != nil {
		return solver.Key{}, err
	}
	all := make([]digest.Digest, f.inputs)
	for i, sels := range f.selectors {
		all[i] = selectorDigest(sels)
	}
	return keyOf(dt, all, func(input int) bool { return f.selectors[input] != nil }), nil
}

// actionKey returns what counts of an action. Of a source path it is the last component, which
// is the name of the copy; where it was is the business of selectors.
func (f *fileOp) actionKey(a *pb.FileAction) ([]byte, error) {
	switch t := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return json.Marshal(t.Mkdir)
	case *pb.FileAction_Mkfile:
		return json.Marshal(t.Mkfile)
	case *pb.FileAction_Symlink:
		return json.Marshal(t.Symlink)
	case *pb.FileAction_Rm:
		return json.Marshal(t.Rm)
	case *pb.FileAction_Copy:
		p := t.Copy.CloneVT()
		if a.SecondaryInput != -1 && int(a.SecondaryInput) < f.inputs {
			p.Src = path.Base(p.Src)
		}
		return json.Marshal(p)
	}
	return nil, fmt.Errorf("file action %T: %w", a.Action, errdefs.ErrNotImplemented)
}

// usualIndexes says whether each action works on the one before and copies from input 1; the
// key of that case has no indexes, for historical reasons (isDefaultIndexes in BuildKit).
func usualIndexes(list [][]int) bool {
	for i, idx := range list {
		input, output := len(list)+i-1, -1
		if i == 0 {
			input = 0
		}
		if i == len(list)-1 {
			output = 0
		}
		if idx[0] != input || idx[1] != -1 && idx[1] != 1 || idx[2] != output {
			return false
		}
	}
	return len(list) > 0
}

// ContentKeys implements solver.Op.
func (f *fileOp) ContentKeys(ctx context.Context, c *solver.Console, inputs []Result) ([]digest.Digest, error) {
	keys := make([]digest.Digest, len(inputs))
	for i, sels := range f.selectors {
		var err error
		if keys[i], err = f.env.contentDigest(ctx, c, inputs[i], dedupe(sels)); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
