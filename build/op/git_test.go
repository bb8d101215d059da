package op

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

func TestGitRemotes(t *testing.T) {
	cases := map[string]struct {
		id         string
		attrs      map[string]string
		remote     string // "": refused
		ref, under string
	}{
		"no scheme":                {id: "example.com/a/b.git#main:dir", remote: "https://example.com/a/b.git", ref: "main", under: "dir"},
		"a full URL":               {id: "example.com/a.git", attrs: map[string]string{pb.AttrFullRemoteURL: "ssh://git@example.com/a.git"}, remote: "ssh://git@example.com/a.git"},
		"scp's form":               {id: "git@example.com:a/b.git", remote: "git@example.com:a/b.git"},
		"a file of this machine":   {id: "x", attrs: map[string]string{pb.AttrFullRemoteURL: "file:///etc"}},
		"a program":                {id: "x", attrs: map[string]string{pb.AttrFullRemoteURL: "ext://sh"}},
		"an option":                {id: "x", attrs: map[string]string{pb.AttrFullRemoteURL: "--upload-pack=touch@x:y"}},
		"a ref that is an option":  {id: "example.com/a.git#--upload-pack=x"},
		"a ref of many":            {id: "example.com/a.git#a*"},
		"a checksum that is words": {id: "example.com/a.git", attrs: map[string]string{pb.AttrGitChecksum: "main"}},
		"an attribute from later":  {id: "example.com/a.git", attrs: map[string]string{pb.AttrGitBundle: "x"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o, err := (&Env{}).gitOp(c.id, c.attrs)
			if c.remote == "" {
				if err == nil {
					t.Errorf("not refused: %+v", o)
				}
				return
			}
			if err != nil || o.remote != c.remote || o.ref != c.ref || o.subdir != c.under {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestGitChoosesWholeNamesThenBranchesThenTags(t *testing.T) {
	const a, b, c = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222", "3333333333333333333333333333333333333333"
	out := a + "\trefs/heads/x\n" + b + "\trefs/tags/x\n" + c + "\trefs/tags/x^{}\n" + b + "\trefs/tags/t\n" + c + "\trefs/tags/t^{}\n"
	for ref, want := range map[string][3]string{
		"x": {a, "", "refs/heads/x"}, "refs/tags/x": {b, c, "refs/tags/x"}, "t": {b, c, "refs/tags/t"}, "heads/x": {a, "", "refs/heads/x"}, "none": {},
	} {
		o := &gitOp{ref: ref}
		err := o.choose(out)
		if got := [3]string{o.commit, o.tagged, o.resolvedRef}; got != want || (err == nil) != (want[0] != "") {
			t.Errorf("%s: got %q, %v", ref, got, err)
		}
	}
	if err := (&gitOp{ref: "t", checksum: "3333"}).choose(out); err != nil {
		t.Errorf("the commit of a tag: %v", err)
	}
	if err := (&gitOp{ref: "t", checksum: "4444"}).choose(out); err == nil {
		t.Error("a wrong checksum is taken")
	}
}

// TestGitSubdirectoriesAreNoLinks is CVE-2026-33748.
func TestGitSubdirectoriesAreNoLinks(t *testing.T) {
	tree, host, to := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(host, "sub"), filepath.Join(tree, "real/sub")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range [][2]string{{host, "out"}, {"real", "in"}, {"../../sub", "real/up"}} {
		if err := os.Symlink(link[0], filepath.Join(tree, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"out", "out/sub", "in/sub", "real/up", "missing", "../" + filepath.Base(host)} {
		if err := moveSubdir(tree, sub, to); err == nil {
			t.Errorf("%s was taken", sub)
		}
	}
	if err := moveSubdir(tree, "real", to); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(to, "sub")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(host, "sub")); err != nil {
		t.Error(err)
	}
}

// What a remote has git write is bounded: an answer by an error, what is said to people to its end.
func TestGitThatTalks(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\ncase $1 in\n" +
		"talk) i=0; while [ $i -lt 20000 ]; do echo 'remote: la la la la la la la la' >&2; i=$((i+1)); done; echo 'fatal: no' >&2; exit 1;;\n" +
		"*) exec cat /dev/zero;;\nesac\n"
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &gitRepo{env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, remote: "https://example.com/a.git"}
	out, _, err := r.run(t.Context(), []string{"ls-remote"})
	if !errdefs.IsResourceExhausted(err) || len(out) > maxGitOutput {
		t.Errorf("an endless answer: %d bytes, %v", len(out), err)
	}
	_, said, err := r.run(t.Context(), []string{"talk"})
	if err == nil || len(said) > maxGitTalk || !strings.HasSuffix(said, "fatal: no\n") {
		t.Errorf("%d bytes were said, at last %.40q, %v", len(said), said[max(0, len(said)-40):], err)
	}
}

func FuzzGitRemote(f *testing.F) {
	for _, s := range []string{"example.com/a#b:c", "git@x:y", "-x@y:z", "ext::sh", "a#-b", "https://u:p@h/p?ref=x"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, id, full string) {
		o, err := (&Env{}).gitOp(id, map[string]string{pb.AttrFullRemoteURL: full})
		if err == nil && (o.remote[0] == '-' || o.ref != "" && o.ref[0] == '-') {
			t.Errorf("%q is an option of git", o.remote)
		}
	})
}
