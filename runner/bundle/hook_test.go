package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Hooks run in the order of their points, each in its namespaces: of the six, only that
// before the command sees the container's files.
func TestHooks(t *testing.T) {
	p := newPlace(t)
	log := p.bundle + "/rootfs/log"
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c",
			`l=` + log + `; [ -e $l ] || [ -d ${l%/*} ] || l=/log
read -r state; state=${state#*status\":\"}; state=${state%%\"*}
[ -d ` + p.bundle + `/rootfs/proc/self ] && seen=mounts || seen=
echo ` + name + ` $state $([ "$(readlink /proc/self/ns/uts)" = $HOST ] && echo host || echo inside) $seen >>$l`},
			Env: []string{"PATH=/usr/bin:/bin", "HOST=" + readlink(t, "/proc/self/ns/uts")}}}
	}
	all := func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"),
			StartContainer: hook("startContainer"), Poststart: hook("poststart"), Poststop: hook("poststop")}
		s.Hooks.Prestart = hook("prestart") //lint:ignore SA1019 docker still uses them
	}
	c, err := p.create(t, "a", "read x </proc/1/fd/nothing; sleep 0.2", all)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if warnings, err := c.Delete(t.Context(), DeleteOptions{}); len(warnings) > 0 || err != nil {
		t.Fatal(warnings, err)
	}
	want := `prestart creating host
createRuntime creating host
createContainer creating inside mounts
startContainer created inside
poststart running host
poststop stopped host
`
	got, err := os.ReadFile(log)
	if strings.ReplaceAll(string(got), " \n", "\n") != want || err != nil {
		t.Errorf("hooks: %v, %s", err, got)
	}
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	to, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A hook that fails, or takes too long, ends what was begun.
func TestFailingHooks(t *testing.T) {
	p := newPlace(t)
	none, second := 0, 1
	sh := func(script string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
	}
	slow := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second}}
	for _, test := range []struct {
		hooks specs.Hooks
		want  string
	}{
		{specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}, "/bin/false: exit status 1"},
		{specs.Hooks{CreateRuntime: sh("echo why; exit 3")}, "/bin/sh: exit status 3: why"},
		{specs.Hooks{CreateContainer: sh("echo why; exit 3")}, "/bin/sh: exit status 3: why"},
		{specs.Hooks{CreateRuntime: sh("kill -9 $$")}, "/bin/sh: signal: killed"},
		{specs.Hooks{CreateContainer: sh("kill -9 $$")}, "/bin/sh: exit status 137"},
		{specs.Hooks{CreateRuntime: slow}, "/bin/sleep: it did not end within its timeout of 1 s: context deadline exceeded"},
		{specs.Hooks{CreateContainer: slow}, "/bin/sleep: it did not end within its timeout of 1 s: context deadline exceeded"},
		{specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true", Timeout: &none}}}, "/bin/true: timeout 0 is not greater than zero: invalid argument"},
	} {
		_, err := p.create(t, "c", "", func(s *specs.Spec) { s.Hooks = &test.hooks })
		if err == nil || !strings.HasSuffix(err.Error(), "hook #0: "+test.want) {
			t.Errorf("create: %v, want %s", err, test.want)
		}
	}
	if left, err := p.All(); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	note := p.bundle + "/note"
	for _, at := range []func(h *specs.Hooks){
		func(h *specs.Hooks) { h.CreateRuntime = sh("exit 3") },
		func(h *specs.Hooks) { h.CreateContainer = sh("exit 3") },
	} {
		hooks := specs.Hooks{Poststop: sh("cat >>" + note)}
		at(&hooks)
		_, err := p.create(t, "c", "", func(s *specs.Spec) { s.Hooks = &hooks })
		text, readErr := os.ReadFile(note)
		if err == nil || readErr != nil || strings.Count(string(text), `"status":"stopped"`) != 1 {
			t.Errorf("poststop of a failed create: %v, %v, %s", err, readErr, text)
		}
		os.Remove(note)
	}
	c, err := p.create(t, "d", "while :; do :; done", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 1"}}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "hook #0: /bin/sh") {
		t.Errorf("start: %v", err)
	}
	wantStatus(t, c, specs.StateStopped)
}

// A createContainer hook finds itself in the root's directory and the host's /proc as it
// was, and what it mounts stays: libraries of a GPU come so.
func TestCreateContainerHook(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "cat /bin/new; touch /x 2>/dev/null || echo read-only", func(s *specs.Spec) {
		s.Linux.MaskedPaths, s.Root.Readonly = []string{"/proc/acpi", "/bin/none"}, true
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Args: []string{"sh", "-ec",
			"test -e /proc/self/status; test -x bin/busybox; echo lib >../lib; touch bin/new; mount --bind ../lib bin/new"}}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if got := p.output(t); got != "lib\nread-only\n" {
		t.Errorf("output %q", got)
	}
}

// A startContainer hook without an environment has the command's, as with runc.
func TestStartContainerHookEnv(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", ":", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$PATH:$HOME" = /bin:/ ]`}}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

// Hooks that are programs of the host and have no environment have the runtime's, as with runc
// and crun, and nothing of the container's. An environment that is an empty list is empty.
func TestHostHookEnv(t *testing.T) {
	t.Setenv("OF_HOST", "1")
	p := newPlace(t)
	log := filepath.Join(t.TempDir(), "log")
	c, err := p.create(t, "a", ":", func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "OF_IMAGE=1")
		hook := []specs.Hook{
			{Path: "/bin/sh", Args: []string{"sh", "-c", `echo "$OF_HOST$OF_IMAGE" >>` + log}},
			{Path: "/bin/sh", Env: []string{"OWN=1"}, Args: []string{"sh", "-c", `echo "own$OF_HOST" >>` + log}},
			{Path: "/bin/sh", Env: []string{"EMPTY"}, Args: []string{"sh", "-c", `echo "empty$OF_HOST$OF_IMAGE" >>` + log}},
		}
		s.Hooks = &specs.Hooks{CreateRuntime: hook, CreateContainer: hook, Poststart: hook, Poststop: hook}
		s.Hooks.Prestart = hook //lint:ignore SA1019 docker still uses them
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(log)
	if want := strings.Repeat("1\nown\nempty\n", 5); err != nil || string(got) != want {
		t.Errorf("%v: hooks found %q, want %q", err, got, want)
	}
}
