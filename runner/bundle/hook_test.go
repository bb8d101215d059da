package bundle

import (
	"os"
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
	second := 1
	for name, h := range map[string]*specs.Hooks{
		"createRuntime":   {CreateRuntime: []specs.Hook{{Path: "/bin/false"}}},
		"createContainer": {CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo why; exit 3"}}}},
		"too slow":        {CreateContainer: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second}}},
	} {
		_, err := p.create(t, "c", "", func(s *specs.Spec) { s.Hooks = h })
		if err == nil || !strings.Contains(err.Error(), "hook /bin/") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "createContainer" && !strings.HasSuffix(err.Error(), "exit status 3: why") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := p.All(); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	c, err := p.create(t, "d", "while :; do :; done", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 1"}}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "hook /bin/sh") {
		t.Errorf("start: %v", err)
	}
	wantStatus(t, c, specs.StateStopped)
}
