package engine_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// newBuildxWorld is a world with docker's plugin buildx, which test/setup.sh has built.
func newBuildxWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	plugin, err := filepath.Abs("../../.cache/peers/buildx")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(plugin); err != nil {
		t.Fatalf("%v: `make setup` builds it", err)
	}
	if err := os.MkdirAll(w.dir+"/docker/cli-plugins", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, w.dir+"/docker/cli-plugins/docker-buildx"); err != nil {
		t.Fatal(err)
	}
	return w
}

// write puts files below the directory of w.
func (w *world) write(files map[string]string) {
	w.t.Helper()
	for name, text := range files {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// buildx runs `docker buildx` and returns what it printed, the progress too.
func (w *world) buildx(args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.try("docker", append([]string{"buildx"}, args...)...)
	if code != 0 {
		w.t.Fatalf("docker buildx %q: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout + stderr
}

// TestBuildx builds by docker's plugin.
func TestBuildx(t *testing.T) {
	w := newBuildxWorld(t)
	w.want("docker +docker|docker", "buildx", "ls")
	for name, part := range map[string]func(*testing.T, *world){
		"build": testBuildxBuild,
	} {
		t.Run(name, func(t *testing.T) { w.t = t; part(t, w) })
		w.t = t
	}
}

func testBuildxBuild(t *testing.T, w *world) {
	w.write(map[string]string{
		"app/Dockerfile":    "FROM busybox AS made\nCOPY src /src\nRUN cat /src/a /src/b >/made; echo from the step\nFROM busybox\nCOPY --from=made /made /made\nLABEL who=buildx\n",
		"app/.dockerignore": "hidden\n", "app/src/a": "a\n", "app/src/b": "b\n", "app/hidden": "x",
	})
	first := w.buildx("build", "--progress", "plain", "-t", "app:1", "app")
	ran := regexp.MustCompile(`(?m)^#\d+ [\d.]+ from the step$`)
	if !ran.MatchString(first) {
		t.Errorf("the first build does not show what a step printed:\n%s", first)
	}
	for _, want := range []string{"naming to docker.io/library/app:1", "[internal] load build context"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first build does not say %q:\n%s", want, first)
		}
	}
	if got := w.docker("run", "--rm", "app:1", "cat", "/made"); got != "a\nb" {
		t.Errorf("the image has %q", got)
	}
	if again := w.buildx("build", "--progress", "plain", "-t", "app:1", "app"); !strings.Contains(again, " CACHED") || ran.MatchString(again) {
		t.Errorf("the second build ran a step:\n%s", again)
	}
	w.write(map[string]string{"app/src/b": "c\n"})
	w.buildx("build", "-t", "app:1", "app")
	if got := w.docker("run", "--rm", "app:1", "cat", "/made"); got != "a\nc" {
		t.Errorf("after a change the image has %q", got)
	}
}
