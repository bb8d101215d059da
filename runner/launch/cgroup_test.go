package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

func unified(t *testing.T) string {
	t.Helper()
	privilege.NeedRoot(t)
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(dir + "/cgroup.subtree_control"); err == nil {
			return dir
		}
	}
	t.Fatal("this host has no unified hierarchy")
	return ""
}

func TestBornInCgroup(t *testing.T) {
	name := fmt.Sprintf("teu-test-launch-%d", os.Getpid())
	dir := unified(t) + "/" + name
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		dir  string
		born bool
	}{{dir, true}, {t.TempDir(), false}} {
		a := NewAssembler(Options{Slots: 3, CgroupDir: tt.dir, CloneFlags: unix.CLONE_NEWUTS})
		born := a.Born()
		if tt.born {
			a.Fail(Cond{Unless: born}, unix.EXDEV)
		} else {
			a.Fail(Cond{When: born}, unix.EXDEV)
		}
		a.Exec([]string{"/bin/sh"}, []string{"sh", "-c", "grep ^0:: /proc/self/cgroup"}, nil)
		p, err := a.Program()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := output(t, p)
		if err != nil || strings.Contains(got, name) != tt.born {
			t.Errorf("%s: %q, %v", tt.dir, got, err)
		}
	}
	a := NewAssembler(Options{Slots: 3, CgroupDir: "/no/such"})
	a.Exec([]string{"/bin/true"}, []string{"true"}, nil)
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := output(t, p); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}
