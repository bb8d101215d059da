package graph

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var host = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// define marshals ops; an input is written as the place of its operation in the list.
func define(t testing.TB, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	var digests []string
	for _, op := range ops {
		for _, in := range op.Inputs {
			if len(in.Digest) == 1 {
				in.Digest = digests[in.Digest[0]-'0']
			}
		}
		b, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, b)
		digests = append(digests, digest.FromBytes(b).String())
	}
	return def
}

func source() *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://busybox"}}}
}

func exec(mounts ...*pb.Mount) *pb.Op {
	return &pb.Op{Inputs: []*pb.Input{{Digest: "0"}}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"make", "all"}}, Mounts: mounts,
	}}}
}

func file(actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Inputs: []*pb.Input{{Digest: "0"}}, Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkdir(in, out int64) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}}}
}

func end(index int64) *pb.Op { return &pb.Op{Inputs: []*pb.Input{{Digest: "1", Index: index}}} }

func TestLoad(t *testing.T) {
	root := &pb.Mount{Dest: "/"}
	cases := map[string]struct {
		ops  []*pb.Op
		want string // part of the error
	}{
		"a command":                        {[]*pb.Op{source(), exec(root), end(0)}, ""},
		"actions on actions":               {[]*pb.Op{source(), file(mkdir(0, -1), mkdir(1, 0)), end(0)}, ""},
		"a secret has no input or output":  {[]*pb.Op{source(), exec(root, &pb.Mount{Dest: "/s", Input: 5, MountType: pb.MountType_SECRET}), end(0)}, ""},
		"no result":                        {[]*pb.Op{source(), exec(root)}, "not the result"},
		"a lone operation":                 {[]*pb.Op{source()}, "1 operations"},
		"an output that is not there":      {[]*pb.Op{source(), exec(root), end(1)}, "no output 1"},
		"a negative output":                {[]*pb.Op{source(), exec(root), end(-1)}, "no output -1"},
		"a mount from nowhere":             {[]*pb.Op{source(), exec(&pb.Mount{Dest: "/", Input: 1}), end(0)}, "input 1 of 1"},
		"two roots":                        {[]*pb.Op{source(), exec(root, &pb.Mount{Dest: "/", Output: -1}), end(0)}, "2 mounts on /"},
		"two mounts with one output":       {[]*pb.Op{source(), exec(root, &pb.Mount{Dest: "/x"}), end(0)}, "impossible output"},
		"an output as large as the memory": {[]*pb.Op{source(), exec(&pb.Mount{Dest: "/", Output: 1 << 40}), end(0)}, "impossible output"},
		"an action on a later one":         {[]*pb.Op{source(), file(mkdir(1, 0)), end(0)}, "input 1 of 1"},
		"an unknown action":                {[]*pb.Op{source(), file(&pb.FileAction{}), end(0)}, "unknown kind"},
		"an unknown operation":             {[]*pb.Op{source(), {Inputs: []*pb.Input{{Digest: "0"}}}, end(0)}, "unknown kind"},
		"a missing operation":              {[]*pb.Op{source(), {Inputs: []*pb.Input{{Digest: "sha256:00"}}, Op: &pb.Op_Merge{}}, end(0)}, "is missing"},
		"a build in a build":               {[]*pb.Op{source(), {Op: &pb.Op_Build{Build: &pb.BuildOp{}}}, end(0)}, "not supported"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			g, err := Load(define(t, c.ops...), host)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) {
					t.Fatalf("got %v, want an invalid argument that says %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(g.Vertices) != 2 || g.Root.Vertex != g.Vertices[1] || g.Vertices[1].Inputs[0].Vertex != g.Vertices[0] {
				t.Errorf("got %+v", g)
			}
		})
	}
}

func TestLoadScratch(t *testing.T) {
	g, err := Load(&pb.Definition{}, host)
	if err != nil || g.Root.Vertex != nil {
		t.Errorf("got %v, %v", g, err)
	}
}

func TestUnknownCapability(t *testing.T) {
	def := define(t, source(), exec(&pb.Mount{Dest: "/"}), end(0))
	def.Metadata = map[string]*pb.OpMetadata{digest.FromBytes(def.Def[1]).String(): {Caps: map[string]bool{"exec.teleport": true}}}
	if _, err := Load(def, host); err == nil || !strings.Contains(err.Error(), "exec.teleport") {
		t.Errorf("got %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, ops := range [][]*pb.Op{
		{source(), exec(&pb.Mount{Dest: "/"}), end(0)},
		{source(), file(mkdir(0, -1), mkdir(1, 0)), end(0)},
	} {
		b, err := define(f, ops...).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var def pb.Definition
		if def.Unmarshal(b) != nil {
			return
		}
		g, err := Load(&def, host)
		made, failed := Rewrite(t.Context(), &def, func(_ context.Context, o *pb.Op) (bool, error) { o.GetSource().Identifier += "/more"; return true, nil })
		if failed == nil && made != &def {
			_, failed = Load(made, host)
		}
		if err != nil {
			return
		}
		if failed != nil {
			t.Fatalf("with other sources: %v", failed)
		}
		seen := map[*Vertex]bool{nil: true}
		for _, v := range g.Vertices {
			for _, in := range v.Inputs {
				if !seen[in.Vertex] || in.Index >= outputs(in.Vertex.Op) {
					t.Fatalf("%s stands on what does not come before it", v.Name)
				}
			}
			seen[v] = true
		}
		if !seen[g.Root.Vertex] {
			t.Fatal("the root is not among the vertices")
		}
	})
}
