package bundle

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Few machines have resctrl. A directory takes its place, which shows what is written where,
// and makes no files in new groups.
func TestRDT(t *testing.T) {
	p := newPlace(t)
	root := t.TempDir()
	p.resctrl = func() (string, error) { return root, nil }
	shared := filepath.Join(root, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"tasks", "schemata"} {
		if err := os.WriteFile(filepath.Join(shared, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	has := func(file, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(shared, file)); err != nil || string(b) != want {
			t.Errorf("%s has %q, %v; want %q", file, b, err, want)
		}
	}
	with := func(r specs.LinuxIntelRdt) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.IntelRdt = &r }
	}
	c, err := p.create(t, "a", "sleep 100", with(specs.LinuxIntelRdt{ClosID: "shared", L3CacheSchema: "L3:0=f\nMB:0=10", MemBwSchema: "MB:0=20"}))
	if err != nil {
		t.Fatal(err)
	}
	has("tasks", strconv.Itoa(c.Init.PID))
	has("schemata", "L3:0=f\nMB:0=20\n")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(&specs.Process{Cwd: "/", Args: []string{"/bin/sleep", "0"}}, ExecOptions{Stdio: Stdio{Files: [3]*os.File{p.out, p.out, p.out}}}); err != nil {
		t.Fatal(err)
	}
	has("tasks", "0"+strconv.Itoa(c.Init.PID)[1:]) // 0 is who writes
	if _, err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	has("schemata", "L3:0=f\nMB:0=20\n")

	for id, want := range map[string]string{"missing": "no such class of service", "..": "closID", "a/b": "closID", "info": "closID", "": "tasks: no such file"} {
		if _, err := p.create(t, "b", "true", with(specs.LinuxIntelRdt{ClosID: id})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("closID %q: %v, want %q", id, err, want)
		}
	}
	if left, _ := filepath.Glob(root + "/*"); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	p.resctrl = mountedResctrl
	if _, err := mountedResctrl(); err == nil {
		return // a rare machine
	}
	if _, err := p.create(t, "b", "true", with(specs.LinuxIntelRdt{})); !errdefs.IsNotImplemented(err) {
		t.Errorf("without resctrl: %v", err)
	}
}

func TestSchemata(t *testing.T) {
	got := schemata(&specs.LinuxIntelRdt{Schemata: []string{"L3:0=1", "MB:0=5"}, L3CacheSchema: "L3:0=7"})
	if d := cmp.Diff([]string{"L3:0=1", "MB:0=5"}, got); d != "" {
		t.Error(d)
	}
}
