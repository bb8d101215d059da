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
	const schema = "    L3:0=00f;1=0ff\n    MB:0=20;1=100\n"
	for _, dir := range []string{root, shared} {
		for file, text := range map[string]string{"tasks": "", "schemata": schema} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
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
	has("schemata", schema)
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
	has("schemata", schema)

	if _, err := p.create(t, "b", "true", with(specs.LinuxIntelRdt{ClosID: "shared", Schemata: []string{"L3:0=f", "L3:1=7f"}})); err == nil || !strings.Contains(err.Error(), "L3:1=ff, not 7f") {
		t.Errorf("other shares than the class has: %v", err)
	}
	c, err = p.create(t, "root", "true", with(specs.LinuxIntelRdt{ClosID: "/"}))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "tasks")); err != nil || string(b) != strconv.Itoa(c.Init.PID) {
		t.Errorf("in the root: %q, %v", b, err)
	}
	if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Error(err)
	}
	for _, file := range []string{"tasks", "schemata"} {
		os.Remove(filepath.Join(root, file))
	}
	if err := os.Mkdir(filepath.Join(root, "b"), 0o755); err != nil { // by its ID, and not its own
		t.Fatal(err)
	}
	if _, err := p.create(t, "b", "true", with(specs.LinuxIntelRdt{})); err == nil {
		t.Error("without a file of tasks")
	}
	if err := os.Remove(filepath.Join(root, "b")); err != nil {
		t.Error(err)
	}
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
	got := schemata(&specs.LinuxIntelRdt{Schemata: []string{"L3:0=1", "MB:0=5"}, L3CacheSchema: "L3:0=7", MemBwSchema: "MB:0=6"})
	if d := cmp.Diff([]string{"L3:0=7", "MB:0=6", "L3:0=1", "MB:0=5"}, got); d != "" {
		t.Error(d)
	}
}
