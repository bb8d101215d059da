package graph

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// check looks at what the operation of v refers to.
func check(v *Vertex) error {
	if err := checkCaps(v.Metadata); err != nil {
		return err
	}
	n := len(v.Inputs)
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		if op.Source == nil || op.Source.Identifier == "" {
			return errors.New("source without an identifier")
		}
		return nil
	case *pb.Op_Exec:
		return checkExec(op.Exec, n)
	case *pb.Op_File:
		return checkFile(op.File, n)
	case *pb.Op_Merge:
		return checkMerge(op.Merge, n)
	case *pb.Op_Diff:
		if op.Diff.GetLower() == nil || op.Diff.GetUpper() == nil {
			return errors.New("diff without two sides")
		}
		return errors.Join(checkInput(op.Diff.Lower.Input, n), checkInput(op.Diff.Upper.Input, n))
	case *pb.Op_Passthrough:
		for _, out := range op.Passthrough.GetOutputs() {
			if out < 0 || out >= int64(n) {
				return fmt.Errorf("passes input %d of %d", out, n)
			}
		}
		return nil
	case *pb.Op_Build:
		return errors.New("a build inside a build is not supported")
	case nil:
		return errors.New("operation of an unknown kind")
	}
	return fmt.Errorf("operation of an unknown kind %T", v.Op.Op)
}

// checkCaps refuses what this frontend's version of the definition does not know.
func checkCaps(m *pb.OpMetadata) error {
	if len(m.Caps) == 0 {
		return nil
	}
	known := map[string]bool{}
	for _, c := range pb.Caps.All() {
		known[c.ID] = true
	}
	for id, wanted := range m.Caps {
		if wanted && !known[id] {
			return fmt.Errorf("needs %q, which is not supported", id)
		}
	}
	return nil
}

func checkInput(i int64, n int) error {
	if i < int64(pb.Empty) || i >= int64(n) {
		return fmt.Errorf("refers to input %d of %d", i, n)
	}
	return nil
}

func checkExec(op *pb.ExecOp, inputs int) error {
	if op.GetMeta() == nil || len(op.Meta.Args) == 0 {
		return errors.New("no command")
	}
	roots := 0
	seen := map[int64]bool{}
	for _, m := range op.Mounts {
		if m == nil {
			return errors.New("empty mount")
		}
		if m.Dest == pb.RootMount {
			roots++
		}
		if m.MountType == pb.MountType_SECRET || m.MountType == pb.MountType_SSH {
			continue // has neither input nor output, and the frontend leaves both at 0
		}
		if err := checkInput(m.Input, inputs); err != nil {
			return err
		}
		if m.Output < int64(pb.SkipOutput) || m.Output >= int64(len(op.Mounts)) || m.Output >= 0 && seen[m.Output] {
			return fmt.Errorf("mount %s has the impossible output %d", m.Dest, m.Output)
		}
		seen[m.Output] = true
	}
	if roots != 1 {
		return fmt.Errorf("%d mounts on /, want one", roots)
	}
	return nil
}

// checkFile looks at the indexes of actions: below inputs they mean an input, from there on
// the result of an earlier action.
func checkFile(op *pb.FileOp, inputs int) error {
	if len(op.GetActions()) == 0 {
		return errors.New("no file actions")
	}
	seen := map[int64]bool{}
	for i, a := range op.Actions {
		if a == nil || a.Action == nil {
			return fmt.Errorf("file action %d of an unknown kind", i)
		}
		for _, in := range []int64{a.Input, a.SecondaryInput} {
			if err := checkInput(in, inputs+i); err != nil {
				return err
			}
		}
		if a.Output < int64(pb.SkipOutput) || a.Output >= int64(len(op.Actions)) || a.Output >= 0 && seen[a.Output] {
			return fmt.Errorf("file action %d has the impossible output %d", i, a.Output)
		}
		seen[a.Output] = true
	}
	return nil
}

func checkMerge(op *pb.MergeOp, inputs int) error {
	for _, in := range op.GetInputs() {
		if in == nil {
			return errors.New("empty merge input")
		}
		if err := checkInput(in.Input, inputs); err != nil {
			return err
		}
	}
	return nil
}

// outputs says how many outputs an operation has.
func outputs(o *pb.Op) int {
	most := int64(0)
	switch op := o.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.GetMounts() {
			if m.GetMountType() != pb.MountType_SECRET && m.GetMountType() != pb.MountType_SSH {
				most = max(most, m.GetOutput()+1)
			}
		}
	case *pb.Op_File:
		for _, a := range op.File.GetActions() {
			most = max(most, a.GetOutput()+1)
		}
	case *pb.Op_Passthrough:
		most = int64(len(op.Passthrough.GetOutputs()))
	default:
		most = 1
	}
	return int(most)
}

// name is what the frontend calls the vertex, or else what it does.
func name(v *Vertex) string {
	if n := v.Metadata.Description["llb.customname"]; n != "" {
		return n
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return op.Source.GetIdentifier()
	case *pb.Op_Exec:
		return strings.Join(op.Exec.GetMeta().GetArgs(), " ")
	case *pb.Op_File:
		return fileName(op.File.GetActions())
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	case *pb.Op_Passthrough:
		return "passthrough " + op.Passthrough.GetId()
	}
	return "operation " + v.Digest.Encoded()[:12]
}

func fileName(actions []*pb.FileAction) string {
	var names []string
	for _, action := range actions {
		switch a := action.GetAction().(type) {
		case *pb.FileAction_Mkdir:
			names = append(names, "mkdir "+a.Mkdir.GetPath())
		case *pb.FileAction_Mkfile:
			names = append(names, "mkfile "+a.Mkfile.GetPath())
		case *pb.FileAction_Symlink:
			names = append(names, "symlink "+a.Symlink.GetNewpath())
		case *pb.FileAction_Rm:
			names = append(names, "rm "+a.Rm.GetPath())
		case *pb.FileAction_Copy:
			names = append(names, "copy "+a.Copy.GetSrc()+" "+a.Copy.GetDest())
		}
	}
	return strings.Join(names, ", ")
}
