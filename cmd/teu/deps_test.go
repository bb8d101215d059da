package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/teu-dev/teu/"

// layers is the height of every package. A package imports only lower ones, so the
// arrows of the architecture never turn. A new package needs a line here.
var layers = map[string]int{
	"cache/coldjson":  -3,
	"cache/statefile": -2, // documents and locks, below everything
	"runner/tinyelf":  -2,
	"runner/slack":    -2,
	"runner/userns":   -1,
	"runner/selinux":  -1,
	"runner/watch":    -1,
	"cache/inflate":   -1,
	"cache/program":   0,
	"cache/outfile":   0,
	"cache/content":   0, "cache/mount": 0, "cache/rootfs": 0,
	"dockerfile": 0, "build/graph": 0, "build/solver": 0,
	"runner/cgroup": 0, "runner/dns": 0, "runner/seccomp": 0, "runner/event": 0, "runner/logrelay": 0, "runner/outlet": 0, "server": 0,

	"cache/layer": 1, "cache/snapshot": 1, "cache/image": 1, "cache/contenthash": 1,
	"registry": 1, "registry/archive": 1, "server/registry": 1, "runner/spec": 1, "runner/launch": 1, "runner/systemd": 1, "runner/network": 1, "runner/archive": 1,

	"cache/result": 2, "runner/oci": 2, "registry/transfer": 2, "registry/manifestlist": 2,
	"cache": 3, "runner/keeper": 3, "cmd/teu-keeper": 3, "cmd/teu-outlet": 1, "cmd/teu/pack": 0,
	"build/op": 4, "build/export": 4, "runner": 4, "runner/bundle": 4, "runner/hook": 4, "cache/listing": 4,
	"cache/library": 5, "build": 5, "build/remotecache": 3, "build/provenance": 1, "runner/cdi": 2, "runner/inspect": 5,
	"server/engine": 6, "server/engine/buildkit": 6,
	"cmd/teu/ui": 6,
	"cmd/teu":    7,

	"test/built":        0,
	"test/privilege":    0,
	"test/suite":        8,
	"test/differential": 8,
	"bench":             8,
}

// sideways are the imports allowed between packages of one height: a front of another, and
// what two of them have in common.
var sideways = map[string]string{
	"cmd/teu-keeper": "runner/keeper",
	"runner":         "runner/hook",
	"server/engine":  "server/engine/buildkit",
	"runner/bundle":  "runner/hook",
}

// fences name the only packages that may import a module, subpackages included.
// An entry of the list that ends in "=" allows the package for exactly that import path.
var fences = []struct {
	imports string
	allowed []string
}{
	{"github.com/moby/buildkit/solver/pb", []string{"dockerfile", "build", "build/graph", "build/solver", "build/op", "build/export", "build/provenance", "server/engine/buildkit"}},
	{"github.com/moby/buildkit", []string{"dockerfile", "build/provenance", "server/engine/buildkit"}},
	{"github.com/google/go-containerregistry", []string{"registry"}},
	{"github.com/moby/moby", []string{"server/engine", "runner/inspect"}},
	{"github.com/spf13/cobra", []string{"cmd/teu"}},
	{"gvisor.dev/gvisor", []string{"runner/outlet"}},
}

// TestImports holds the arrows and the fences. It reads the files itself, because a
// test that asks the go command is answered from the cache after the tree went wrong.
func TestImports(t *testing.T) {
	eachImport(t, func(file, pkg, imported string, isTest bool) {
		if isTest {
			return
		}
		if dep, ok := strings.CutPrefix(imported, module); ok {
			from, known := layers[pkg]
			to, depKnown := layers[dep]
			switch {
			case !known:
				t.Errorf("%s: package %s has no height in deps_test.go", file, pkg)
			case !depKnown:
				t.Errorf("%s: imports %s, which has no height in deps_test.go", file, dep)
			case to > from, to == from && sideways[pkg] != dep:
				t.Errorf("%s: %s (height %d) must not import %s (height %d)", file, pkg, from, dep, to)
			}
		}
		for _, fence := range fences {
			if imported != fence.imports && !strings.HasPrefix(imported, fence.imports+"/") {
				continue
			}
			if !contains(fence.allowed, pkg) {
				t.Errorf("%s: %s must not import %s", file, pkg, imported)
			}
			break
		}
	})
}

// TestPackageComments holds that every package says in one place what it owns.
func TestPackageComments(t *testing.T) {
	comments := map[string]int{}
	eachFile(t, func(file, pkg string, isTest bool) {
		if isTest {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		comments[pkg] += 0
		if f.Doc != nil && !strings.HasPrefix(f.Doc.List[0].Text, "//go:build") {
			comments[pkg]++
		}
	})
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want 1", pkg, n)
		}
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func eachImport(t *testing.T, visit func(file, pkg, imported string, isTest bool)) {
	t.Helper()
	eachFile(t, func(file, pkg string, isTest bool) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			visit(file, pkg, imported, isTest)
		}
	})
}

func eachFile(t *testing.T, visit func(file, pkg string, isTest bool)) {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, p)
		name := d.Name()
		if d.IsDir() && rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "examples" || isModule(p)) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		files++
		visit(p, path.Dir(filepath.ToSlash(rel)), strings.HasSuffix(name, "_test.go"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Fatalf("looked at %d files only: is this the module?", files)
	}
}

// isModule reports whether dir is a module of its own (tools for the benchmarks).
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
