package build

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestRemoteContexts(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("github.com/here/it-is", 0o755); err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]bool{
		"https://example.com/a.git": true, "git@example.com:a/b.git": true, "me@example.com:a": true, "github.com/a/b": true, "github.com/a/b.git#main": true,
		"github.com/here/it-is": false, ".": false, "a@b": false, "dir/a@b:c": false, "github.community/a": false, "@b:c": false, "": false,
	} {
		if IsRemoteContext(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
		if ssh := s == "git@example.com:a/b.git" || s == "me@example.com:a"; OverSSH(s) != ssh {
			t.Errorf("%q over ssh: %v", s, !ssh)
		}
	}
}

func TestCopy(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"a/x": "ex", "a/y": "why", "b.o": "object", "keep.o": "kept", ".dockerignore": "*.o\n!keep.o\nDockerfile\n"})
	res, _ := b.must(Options{Tags: []string{"copy"}},
		"FROM busybox",
		"WORKDIR /w",
		"COPY . all/",
		"COPY --chown=app:staff --chmod=600 a/x /dir/x",
		"COPY --from=busybox /etc/passwd /copied",
		"ENV A=b",
		`CMD ["sh"]`)
	want := []string{
		"copied 644 0:0 root:x:0:0:root:/root:/bin/sh\napp:x:1000:2000:app:/:/bin/sh",
		"dir/ 600 1000:2000", "dir/x 600 1000:2000 ex",
		"w/ 755 0:0", "w/all/ 755 0:0",
		"w/ 755 0:0", "w/all/.dockerignore 644 0:0 *.o\n!keep.o\nDockerfile", "w/all/a/ 755 0:0", "w/all/a/x 644 0:0 ex",
		"w/all/a/y 644 0:0 why", "w/all/keep.o 644 0:0 kept",
	}
	got := b.files(res)
	if diff := cmp.Diff(sorted(want), got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	img := b.image(res)
	if img.Config.Config.WorkingDir != "/w" || img.Config.Config.Env[1] != "A=b" {
		t.Errorf("config is %+v", img.Config.Config)
	}
	if len(img.Config.RootFS.DiffIDs) != 5 || len(img.Manifest.Layers) != 5 || len(img.Config.History) != 7 {
		t.Errorf("got %d diffIDs, %d layers and %d history entries, want 5, 5 and 7", len(img.Config.RootFS.DiffIDs), len(img.Manifest.Layers), len(img.Config.History))
	}
	for i, h := range img.Config.History {
		if h.Created == nil || i > 0 && h.Comment != "buildkit.dockerfile.v0" {
			t.Errorf("history entry %d is %+v", i, h)
		}
	}
	if named, err := b.Store.Images.Get("docker.io/library/copy:latest"); err != nil || named.Target.Digest != res.Target.Digest {
		t.Errorf("the name stands for %v, %v", named.Target.Digest, err)
	}
}

func TestCacheByContent(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"a": "1", "noise": "1"})
	dockerfile := []string{"FROM busybox", "COPY a /a", "WORKDIR /later"}
	first, l := b.must(Options{}, dockerfile...)
	if len(l.ran) != 2 {
		t.Fatalf("the first build ran %q", l.ran)
	}
	b.write(map[string]string{"noise": "2", "more": "noise"})
	second, l := b.must(Options{}, dockerfile...)
	if len(l.ran) != 0 || len(l.cached) != 2 {
		t.Errorf("with another context and the same file, ran %q, cached %q", l.ran, l.cached)
	}
	if first.Target.Digest != second.Target.Digest {
		t.Errorf("the same build gave %s, then %s", first.Target.Digest, second.Target.Digest)
	}
	b.write(map[string]string{"a": "2"})
	if _, l = b.must(Options{}, dockerfile...); len(l.ran) != 2 {
		t.Errorf("with another file, ran %q", l.ran)
	}
	if _, l = b.must(Options{NoCache: true}, dockerfile...); len(l.ran) != 2 {
		t.Errorf("with no-cache, ran %q", l.ran)
	}
}

func TestScratch(t *testing.T) {
	b := newBench(t)
	res, _ := b.must(Options{}, "FROM scratch", "LABEL a=b")
	if img := b.image(res); len(img.Manifest.Layers) != 0 || img.Config.Config.Labels["a"] != "b" {
		t.Errorf("got %+v", img)
	}
	b.write(map[string]string{"f": "text"})
	res, _ = b.must(Options{}, "FROM scratch", "COPY --link f /dir/")
	if diff := cmp.Diff([]string{"dir/ 755 0:0", "dir/f 644 0:0 text"}, b.files(res)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestErrorShowsTheLine(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name  string
		lines []string
		line  int
		want  string
	}{
		{"a file that is missing", []string{"FROM busybox", "", "COPY missing /"}, 3, "missing"},
		{"an instruction that does not exist", []string{"FROM busybox", "CPOY a b"}, 2, "CPOY"},
		{"a file that cannot be fetched", []string{"FROM busybox", "ADD http://127.0.0.1:1/f /"}, 2, "127.0.0.1:1"},
		{"a repository that cannot be fetched", []string{"FROM busybox", "COPY Dockerfile /", "ADD http://127.0.0.1:1/r.git /"}, 3, "r.git"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := b.build(Options{}, c.lines...)
			var e *Error
			if !errors.As(err, &e) || len(e.Where) == 0 {
				t.Fatalf("got %v", err)
			}
			if e.Where[0].Start != c.line || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got line %d of %v", e.Where[0].Start, err)
			}
		})
	}
}

func TestMissingContext(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.build(Options{Context: b.dir + "/nowhere"}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, _, err := b.build(Options{}); err == nil || !strings.Contains(err.Error(), "Dockerfile") {
		t.Errorf("without a Dockerfile: %v", err)
	}
}

func TestDockerfileOutsideOfTheContext(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"elsewhere/My.dockerfile": "FROM busybox\nCOPY . /c\n", "elsewhere/My.dockerfile.dockerignore": "*.o\n", "src/a.o": "", "src/a.c": ""})
	res, _ := b.must(Options{Context: b.dir + "/src", Dockerfile: b.dir + "/elsewhere/My.dockerfile"})
	if diff := cmp.Diff([]string{"c/ 755 0:0", "c/a.c 644 0:0"}, b.files(res)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
