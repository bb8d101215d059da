package network

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

func self(t *testing.T) statefile.Process {
	t.Helper()
	p, err := statefile.Self()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// none holds that a manager has no sandbox, share or namespace.
func none(t *testing.T, m *Manager) {
	t.Helper()
	for _, pattern := range []string{"network/endpoints/*", "network/shares/*", "netns/*"} {
		if left, err := filepath.Glob(filepath.Join(m.runRoot, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestShareAfterKill: who dies between any two steps of a share leaves it to the next.
func TestShareAfterKill(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m, ctx := Open(t.TempDir(), t.TempDir()), t.Context()
	if err := m.makeDirs(); err != nil {
		t.Fatal(err)
	}
	write := func(s Sandbox) {
		t.Helper()
		if err := statefile.Write(m.record(s.ID), s, statefile.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	share := func(owner string) {
		t.Helper()
		if path, err := m.Share(ctx, owner, self(t), "rider"); err != nil || !held(path) {
			t.Fatalf("shared: %q, %v", path, err)
		}
	}
	detach := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if err := m.Detach(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Noted and not held.
	write(Sandbox{ID: "none", NetNS: m.NetNSPath("none")})
	share("none")
	detach("none", "rider")
	none(t, m)

	// What takes the namespace along does not come to its end.
	share("none")
	detach("none")
	inTheWay := filepath.Join(m.NetNSPath("none"), "file")
	if err := unix.Unmount(m.NetNSPath("none"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.NetNSPath("none")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Detach(ctx, "rider"); err == nil {
		t.Fatal("a directory is no namespace")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	detach("rider")
	none(t, m)

	// The namespace went, the record did not.
	a := attach(t, m, "a", Options{})
	share("a")
	detach("a")
	if err := removeNetNS(a.NetNS); err != nil {
		t.Fatal(err)
	}
	if s, err := m.Attach(ctx, "a", Options{}); err != nil || !held(s.NetNS) {
		t.Errorf("attached again: %+v, %v", s, err)
	}
	detach("rider", "a")
	none(t, m)
}

// TestShareOfEnded: nobody gets the namespace of a container that has ended, or another in its place.
func TestShareOfEnded(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m, ctx := Open(t.TempDir(), t.TempDir()), t.Context()
	ended := self(t)
	ended.StartTime-- // the number has another process now
	if _, err := m.Share(ctx, "none", ended, "rider"); !errdefs.IsNotFound(err) {
		t.Errorf("of a process that is gone: %v, want not found", err)
	}
	none(t, m)
	attach(t, m, "a", Options{})
	for _, rider := range []string{"rider", "late"} {
		_, err := m.Share(ctx, "a", self(t), rider)
		if late := rider == "late"; late != errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", rider, err)
		}
		if err := m.Detach(ctx, "a"); err != nil {
			t.Error(err)
		}
	}
	if err := m.Detach(ctx, "rider"); err != nil {
		t.Error(err)
	}
	none(t, m)
}

// TestResume: a container without networks that runs again keeps its namespace when the last leaves who shared it.
func TestResume(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m, ctx := Open(t.TempDir(), t.TempDir()), t.Context()
	if path, err := m.Resume(ctx, "none"); path != "" || err != nil {
		t.Fatalf("of nobody: %q, %v", path, err)
	}
	want, err := m.Share(ctx, "none", self(t), "rider")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Detach(ctx, "none"); err != nil {
		t.Fatal(err)
	}
	if path, err := m.Resume(ctx, "none"); path != want || err != nil {
		t.Errorf("got %q, %v; want %q", path, err, want)
	}
	if err := m.Detach(ctx, "rider"); err != nil {
		t.Fatal(err)
	}
	if !held(want) {
		t.Error("the namespace went while its container ran")
	}
	if err := m.Detach(ctx, "none"); err != nil {
		t.Fatal(err)
	}
	none(t, m)
}
