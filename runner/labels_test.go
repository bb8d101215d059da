package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/selinux"
)

// TestLabels holds what SELinux's labels are worth to containers, where the policy of the host has labels for them: a virtual
// machine of docs/containers.md. Elsewhere it holds that nothing is labelled.
func TestLabels(t *testing.T) {
	e := newEngine(t)
	own := t.TempDir()
	if err := os.WriteFile(filepath.Join(own, "f"), []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bound := func(script, mode string, security ...string) Options {
		o := sh(script)
		o.Mounts = []MountRequest{{Type: "bind", Source: own, Target: "/own", Mode: mode}}
		if err := o.SetSecurity(security); err != nil {
			t.Fatal(err)
		}
		return o
	}
	a := detached(t, e, "one", bound("sleep 1000", "Z"))
	b := detached(t, e, "two", sh("sleep 1000"))
	_, _, err := selinux.Defaults()
	if err != nil {
		if a.ProcessLabel+a.MountLabel != "" {
			t.Fatalf("labels %q and %q without SELinux", a.ProcessLabel, a.MountLabel)
		}
		return
	}
	if a.ProcessLabel == b.ProcessLabel || a.MountLabel == b.MountLabel {
		t.Errorf("two containers have the labels %s and %s", a.ProcessLabel, a.MountLabel)
	}
	trimmed := func(s string) string { return strings.Trim(s, " \n\x00") }
	for name, tty := range map[string]bool{"a pipe": false, "a terminal": true} {
		if got, _ := execOut(t, e, "one", ExecOptions{Args: []string{"cat", "/proc/self/attr/current"}, TTY: tty}); trimmed(got) != a.ProcessLabel {
			t.Errorf("with %s a command has the label %q, want %q", name, got, a.ProcessLabel)
		}
	}
	for _, path := range []string{"/", "/bin/busybox", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/etc/hosts", "/own", "/own/f", "/sys/firmware"} {
		buf := make([]byte, 200)
		n, err := unix.Lgetxattr(fmt.Sprintf("/proc/%d/root%s", a.State.Init.PID, path), selinux.Attribute, buf)
		if got := trimmed(string(buf[:max(n, 0)])); got != a.MountLabel && !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s has the label %q, %v, want %q", path, got, err, a.MountLabel)
		}
	}
	if out, _, s := run(t, e, bound("cat /own/f", "")); s.Code == 0 {
		t.Errorf("another container reads what was mounted with Z: %q", out)
	}
	for name, o := range map[string]Options{
		"privileged":      {Privileged: true},
		"label=disable":   bound("", "", "label=disable"),
		"pid of the host": {PIDMode: "host"},
	} {
		o.Image, o.Network, o.Args = "busybox", "none", []string{"cat", "/proc/self/attr/current"}
		if out, _, _ := run(t, e, o); strings.Contains(out, ":container_t:") {
			t.Errorf("%s runs as %s", name, out)
		}
	}
	if out, _, s := run(t, e, bound("cat /own/f /proc/self/attr/current", "z", "label=level:s0:c1,c2")); s.Code != 0 || !strings.Contains(out, "mine") || !strings.Contains(out, ":s0:c1,c2") {
		t.Errorf("with z and a level: %q, %d", out, s.Code)
	}
	for _, bad := range []string{"label=type:nosuch_t", "label=colour:red"} {
		if _, err := e.Create(t.Context(), "", bound("true", "", bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	levels := func() (n int) {
		list, _ := os.ReadDir(e.levels())
		return len(list)
	}
	before := levels()
	if err := e.Remove(t.Context(), "two", RemoveOptions{Force: true}); err != nil || levels() != before-1 {
		t.Errorf("%d of %d levels are kept: %v", levels(), before, err)
	}
}

// TestClaimLevel holds that a level is one container's, until that is gone.
func TestClaimLevel(t *testing.T) {
	e := open(t.TempDir(), t.TempDir())
	if err := os.MkdirAll(e.dir("one"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		level, id string
		want      bool
	}{
		{"s0:c1,c2", "one", true}, {"s0:c1,c2", "two", false}, {"s0:c1,c3", "gone", true},
		{"s0:c1,c3", "two", false}, // which gives it back
		{"s0:c1,c3", "two", true},
	} {
		if got, err := e.claimLevel(c.level, c.id); got != c.want || err != nil {
			t.Errorf("%d: %s for %s: %v, %v", i, c.level, c.id, got, err)
		}
	}
	e.unlabel(&Container{Config: Config{ID: "two", MountLabel: "u:r:t:s0:c1,c2"}}) // not its own
	if got, err := e.claimLevel("s0:c1,c2", "two"); got || err != nil {
		t.Errorf("the level of another container was given back: %v, %v", got, err)
	}
	e.unlabel(&Container{Config: Config{ID: "one", MountLabel: "u:r:t:s0:c1,c2"}})
	if got, err := e.claimLevel("s0:c1,c2", "two"); !got || err != nil {
		t.Errorf("a level that was given back: %v, %v", got, err)
	}
}
