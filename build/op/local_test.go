package op

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

// contextOf makes a context directory and returns the Result of its source.
func contextOf(t *testing.T, e *Env, attrs map[string]string, lines ...string) (Result, string) {
	t.Helper()
	dir := t.TempDir()
	plant(t, dir, lines...)
	e.Locals["context"] = dir
	return sourceOf(t, e, "local://context", attrs), dir
}

func sourceOf(t *testing.T, e *Env, id string, attrs map[string]string) Result {
	t.Helper()
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: attrs}}}, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.Key(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := op.Run(t.Context(), console(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func patterns(list ...string) string {
	b, _ := json.Marshal(list)
	return string(b)
}

// nextBuild forgets what was learnt of the contexts.
func nextBuild(t *testing.T, e *Env) {
	t.Helper()
	if err := e.closeLocals(); err != nil {
		t.Fatal(err)
	}
}

func TestLocalContext(t *testing.T) {
	tree := []string{"d755 5:6 /src", "f640 5:6 /src/a.go A", "f640 5:6 /src/a_test.go T", "d755 5:6 /out", "f644 5:6 /out/bin B", "f644 5:6 /out/keep K",
		"f600 5:6 /Dockerfile D", "l 5:6 /link src"}
	for _, c := range []struct {
		name  string
		attrs map[string]string
		want  []string
	}{
		{"all of it, owned by root", nil, []string{"f600 0:0 /Dockerfile D", "l 0:0 /link src", "d755 0:0 /out", "f644 0:0 /out/bin B", "f644 0:0 /out/keep K",
			"d755 0:0 /src", "f640 0:0 /src/a.go A", "f640 0:0 /src/a_test.go T"}},
		{"without what is ignored", map[string]string{pb.AttrExcludePatterns: patterns("**/*_test.go", "out", "!out/keep", "Dockerfile")},
			[]string{"l 0:0 /link src", "d755 0:0 /out", "f644 0:0 /out/keep K", "d755 0:0 /src", "f640 0:0 /src/a.go A"}},
		{"only what is included", map[string]string{pb.AttrIncludePatterns: patterns("src/a.go")}, []string{"d755 0:0 /src", "f640 0:0 /src/a.go A"}},
		{"what is followed", map[string]string{pb.AttrFollowPaths: patterns("link")},
			[]string{"l 0:0 /link src", "d755 0:0 /src", "f640 0:0 /src/a.go A", "f640 0:0 /src/a_test.go T"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			src, _ := contextOf(t, e, c.attrs, tree...)
			got, err := perform(t, e, action(copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/"})), Result{}, src)
			if err != nil {
				t.Fatal(err)
			}
			wantContents(t, e, got, c.want...)
			m, err := (&mergeOp{&pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}}}}).Run(t.Context(), console(), []Result{src})
			if err != nil {
				t.Fatal(err)
			}
			wantContents(t, e, m[0], c.want...) // as a layer it is the same
		})
	}
}

// TestContentKeyOfContext: what is not selected, times, and who owns the files change nothing.
func TestContentKeyOfContext(t *testing.T) {
	e := newEnv(t)
	_, dir := contextOf(t, e, nil, "f644 5:6 /a/x X", "f644 5:6 /b/x X", "f644 5:6 /other O")
	key := func(src string) digest.Digest {
		t.Helper()
		nextBuild(t, e)
		in := sourceOf(t, e, "local://context", map[string]string{pb.AttrExcludePatterns: patterns("ignored")})
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: action(copyFlags(&pb.FileActionCopy{Src: src, Dest: "/d"}))}}, 2))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := op.ContentKeys(t.Context(), console(), []Result{{}, in})
		if err != nil {
			t.Fatal(err)
		}
		if keys[0] != "" || keys[1] == "" {
			t.Fatalf("got %q", keys)
		}
		return keys[1]
	}
	first := key("/a/x")
	for _, c := range []struct {
		name string
		do   func() error
		src  string
		same bool
	}{
		{"nothing", func() error { return nil }, "/a/x", true},
		{"the same file elsewhere", func() error { return nil }, "/b/x", true},
		{"another file changed", func() error { return os.WriteFile(filepath.Join(dir, "other"), []byte("new"), 0o644) }, "/a/x", true},
		{"touched", func() error { return os.Chtimes(filepath.Join(dir, "a/x"), time.Now(), time.Now()) }, "/a/x", true},
		{"another owner", func() error { return os.Chown(filepath.Join(dir, "a/x"), 9, 9) }, "/a/x", true},
		{"written", func() error { return os.WriteFile(filepath.Join(dir, "a/x"), []byte("Y"), 0o644) }, "/a/x", false},
		{"back again", func() error { return os.WriteFile(filepath.Join(dir, "a/x"), []byte("X"), 0o644) }, "/a/x", true},
		{"another mode", func() error { return os.Chmod(filepath.Join(dir, "a/x"), 0o755) }, "/a/x", false},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if got := key(c.src); (got == first) != c.same {
			t.Errorf("%s: the same key %v, want %v", c.name, got == first, c.same)
		}
	}
}

func TestMissingSourceIsNamed(t *testing.T) {
	e := newEnv(t)
	src, _ := contextOf(t, e, map[string]string{pb.AttrExcludePatterns: patterns("hidden")}, "f644 0:0 /hidden H")
	for _, p := range []string{"/none", "/hidden"} {
		a := action(copyFlags(&pb.FileActionCopy{Src: p, Dest: "/d"}))
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: a}}, 2))
		if err != nil {
			t.Fatal(err)
		}
		_, kerr := op.ContentKeys(t.Context(), console(), []Result{{}, src})
		_, rerr := op.Run(t.Context(), console(), []Result{{}, src})
		for _, err := range []error{kerr, rerr} {
			if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), p) {
				t.Errorf("%s: got %v", p, err)
			}
		}
	}
}

// TestContextThatChanges: an error that names the file, not a wrong image.
func TestContextThatChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(dir string) error
		want string // "" is success
	}{
		{"a file is written", func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/f"), []byte("new"), 0o644) }, "/d/f of the local directory context changed"},
		{"a file goes", func(dir string) error { return os.Remove(filepath.Join(dir, "d/f")) }, "a file in /d of the local directory context vanished"},
		{"a file comes: it is not part of the build", func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/new"), nil, 0o644) }, ""},
		{"what is not copied may change", func(dir string) error { return os.WriteFile(filepath.Join(dir, "log"), []byte("x"), 0o644) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			src, dir := contextOf(t, e, nil, "f644 0:0 /d/f F", "f644 0:0 /log L")
			a := action(copyFlags(&pb.FileActionCopy{Src: "/d", Dest: "/o"}))
			op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: a}}, 2))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := op.ContentKeys(t.Context(), console(), []Result{{}, src}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // file times have the resolution of a tick
			if err := c.do(dir); err != nil {
				t.Fatal(err)
			}
			out, err := op.Run(t.Context(), console(), []Result{{}, src})
			if c.want != "" {
				if !errdefs.IsAborted(err) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantContents(t, e, out[0], "d755 0:0 /o", "f644 0:0 /o/f F")
		})
	}
}

// TestHostileContext: links in a context do not lead to files outside of it (CVE-2022-4122).
func TestHostileContext(t *testing.T) {
	e := newEnv(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	src, _ := contextOf(t, e, nil, "l 0:0 /abs "+host, "l 0:0 /rel "+up[:len(up)-1]+host, "l 0:0 /file "+host+"/secret", "l 0:0 /Dockerfile "+host+"/secret", "d755 0:0 /d")
	for _, p := range []string{"/abs/secret", "/rel/secret", "/file", "/d/" + up + host + "/secret", "/abs/*", "/r*/secret"} {
		got, err := perform(t, e, action(copyFlags(&pb.FileActionCopy{Src: p, Dest: "/o/x"})), Result{}, src)
		if err != nil {
			continue
		}
		for _, line := range contents(t, e, got) {
			if strings.Contains(line, "secret") && line[0] == 'f' {
				t.Errorf("%s: %s", p, line)
			}
		}
	}
	v, err := e.View(t.Context(), console(), src)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if data, err := v.Dir.ReadFile("/Dockerfile", 100); err == nil {
		t.Errorf("the Dockerfile is %q", data)
	}
	// Archives are sniffed by the same rules.
	c := copyFlags(&pb.FileActionCopy{Src: "/file", Dest: "/o/x"})
	c.AttemptUnpackDockerCompatibility = true
	if _, err := perform(t, e, action(c), Result{}, src); !errdefs.IsNotFound(err) {
		t.Errorf("unpacking through a link: %v", err)
	}
}

func TestRunOnContext(t *testing.T) {
	e, base := execEnv(t)
	src, dir := contextOf(t, e, map[string]string{pb.AttrExcludePatterns: patterns("no")}, "f644 5:6 /f F", "f644 0:0 /no N")
	_, said, err := run(t.Context(), t, e, command("ls /m; busybox stat -c %u /m/f; echo x >/m/f; busybox rm /m/f", &pb.Mount{Dest: "/m", Input: 1, Output: -1}), base, src)
	if err != nil || said != "f\n0\n" {
		t.Errorf("it said %q, %v", said, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "f")); string(data) != "F" {
		t.Errorf("the context's file is %q, %v", data, err)
	}
}

// TestSolver lets the real solver and the real cache work on real operations.
func TestSolver(t *testing.T) {
	e, base := execEnv(t)
	dir := t.TempDir()
	plant(t, dir, "f644 0:0 /a A", "f644 0:0 /b B")
	e.Locals["context"] = dir
	build := func() (ran []string, out Result) {
		t.Helper()
		nextBuild(t, e)
		s := solver.New(NewCache(e, e.Store.Results), solver.Options{Events: func(ev solver.Event) {
			if ev.Kind == solver.Completed && ev.Err == nil && ev.Name != "base" && ev.Name != "context" {
				ran = append(ran, ev.Name)
			}
		}})
		make := func(name string, op *pb.Op, in ...*solver.Vertex[Result]) *solver.Vertex[Result] {
			o, err := e.Op(&graph.Vertex{Op: op, Inputs: make([]graph.Edge, len(in)), Metadata: &pb.OpMetadata{}})
			if err != nil {
				t.Fatal(err)
			}
			v := &solver.Vertex[Result]{ID: digest.FromString(name), Name: name, Op: o}
			for _, i := range in {
				v.Inputs = append(v.Inputs, solver.Edge[Result]{Vertex: i})
			}
			return v
		}
		root := &solver.Vertex[Result]{ID: digest.FromString("base"), Name: "base", Op: fixed{base}}
		local := make("context", &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://context"}}})
		cp := make("copy", &pb.Op{Op: &pb.Op_File{File: action(copyFlags(&pb.FileActionCopy{Src: "/a", Dest: "/a"}))}}, root, local)
		rn := make("run", &pb.Op{Op: &pb.Op_Exec{Exec: command("busybox cat /a >/copy-of-a")}}, cp)
		out, err := s.Solve(t.Context(), solver.Edge[Result]{Vertex: rn})
		if err != nil {
			t.Fatal(err)
		}
		return ran, out
	}
	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"first build", func() error { return nil }, "copy run"},
		{"nothing changed", func() error { return nil }, ""},
		{"another file changed", func() error { return os.WriteFile(filepath.Join(dir, "b"), []byte("new"), 0o644) }, ""},
		{"the file changed", func() error { return os.WriteFile(filepath.Join(dir, "a"), []byte("A2"), 0o644) }, "copy run"},
		{"and back", func() error { return os.WriteFile(filepath.Join(dir, "a"), []byte("A"), 0o644) }, ""},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		ran, out := build()
		if got := strings.Join(ran, " "); got != c.want {
			t.Errorf("%s: ran %q, want %q", c.name, got, c.want)
		}
		want, _ := os.ReadFile(filepath.Join(dir, "a"))
		v, err := e.View(t.Context(), console(), out)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.Dir.ReadFile("/copy-of-a", 100); string(got) != string(want) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, want)
		}
		v.Close()
	}
	// A layer that was collected, after the pin that this Env stands for, is made again.
	_, out := build()
	e.there = nil
	if err := e.Store.Layers.Remove(t.Context(), out.Layers[len(out.Layers)-1].ID); err != nil {
		t.Fatal(err)
	}
	if ran, _ := build(); strings.Join(ran, " ") != "run" {
		t.Errorf("after the loss of a layer: ran %q", ran)
	}
}

// fixed is a source that is always there.
type fixed struct{ r Result }

func (f fixed) Key(context.Context) (solver.Key, error) {
	return solver.Key{Digest: digest.FromString("fixed"), Live: true}, nil
}

func (f fixed) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

func (f fixed) Run(context.Context, *solver.Console, []Result) ([]Result, error) {
	return []Result{f.r}, nil
}
