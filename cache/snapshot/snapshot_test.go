package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

func open(t *testing.T) (*snapshot.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	lower := filepath.Join(dir, "lower")
	if err := os.Mkdir(lower, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(lower, 0o1751); err != nil {
		t.Fatal(err)
	}
	return s, lower
}

func TestLife(t *testing.T) {
	s, lower := open(t)
	ctx := t.Context()
	made, err := s.Prepare(ctx, "c1", []string{lower}, []string{"l1"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("c1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(made, got); d != "" {
		t.Errorf("Get returned something else than Prepare: %s", d)
	}
	fi, err := os.Stat(made.Upper)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fi.Mode(), os.ModeDir|os.ModeSticky|0o751; got != want {
		t.Errorf("the upper has the mode %v, want %v of the lower", got, want)
	}
	if _, err := s.Prepare(ctx, "c1", []string{lower}, nil); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("got %v, want already exists", err)
	}
	if ok, err := s.Touch("c1"); !ok || err != nil {
		t.Errorf("Touch: %v, %v", ok, err)
	}
	if err := s.Sync("c1"); err != nil {
		t.Error(err)
	}
	if got := walk(t, s); !cmp.Equal(got, []string{"c1"}) {
		t.Errorf("Walk found %v", got)
	}
	if err := s.Remove(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "c1"); err != nil {
		t.Errorf("removing it twice: %v", err)
	}
	if _, err := s.Get("c1"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
	if ok, err := s.Touch("c1"); ok || err != nil {
		t.Errorf("Touch of a removed snapshot: %v, %v", ok, err)
	}
	if _, err := os.Lstat(made.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v, want none", err)
	}
}

func walk(t *testing.T, s *snapshot.Store) (ids []string) {
	t.Helper()
	if err := s.Walk(t.Context(), func(i snapshot.Info) error {
		ids = append(ids, i.ID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestIDsAreNoPaths(t *testing.T) {
	s, lower := open(t)
	for _, id := range []string{"", ".", "..", "a/b", "../x", "/x", "tmp", ".hidden", "a\x00b", strings.Repeat("x", 300)} {
		if _, err := s.Prepare(t.Context(), id, []string{lower}, nil); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Prepare(%q): %v", id, err)
		}
		if err := s.Remove(t.Context(), id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Remove(%q): %v", id, err)
		}
	}
}

// TestHalfRemoved is about snapshots that lost their records.
func TestHalfRemoved(t *testing.T) {
	s, lower := open(t)
	for _, id := range []string{"again", "swept"} {
		sn, err := s.Prepare(t.Context(), id, []string{lower}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(sn.Dir, "snapshot.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("got %v, want not found", err)
		}
	}
	if got := walk(t, s); len(got) != 0 {
		t.Errorf("Walk found %v", got)
	}
	sn, err := s.Prepare(t.Context(), "again", []string{lower}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(sn.Dir), "swept")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was not swept: %v", err)
	}
	if got := walk(t, s); !cmp.Equal(got, []string{"again"}) {
		t.Errorf("Walk found %v after the sweep", got)
	}
}

// TestOneWins lets several processes prepare the same snapshots; the test is those processes too.
func TestOneWins(t *testing.T) {
	const rounds = 20
	if dir := os.Getenv("TEU_TEST_SNAPSHOTS"); dir != "" {
		s, err := snapshot.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rounds {
			_, err := s.Prepare(context.Background(), fmt.Sprint(i), []string{filepath.Join(dir, "..", "lower")}, nil)
			if err == nil {
				fmt.Printf("won %d\n", i)
			} else if !errors.Is(err, errdefs.ErrAlreadyExists) {
				t.Fatal(err)
			}
		}
		return
	}
	s, lower := open(t)
	out := make([][]byte, 4)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestOneWins$")
			cmd.Env = append(os.Environ(), "TEU_TEST_SNAPSHOTS="+filepath.Join(filepath.Dir(lower), "snapshots"))
			out[i], errs[i] = cmd.CombinedOutput()
		})
	}
	wg.Wait()
	won := 0
	for i := range out {
		if errs[i] != nil {
			t.Errorf("process %d: %v\n%s", i, errs[i], out[i])
		}
		won += strings.Count(string(out[i]), "won ")
	}
	if won != rounds || len(walk(t, s)) != rounds {
		t.Errorf("%d snapshots were prepared and %d are there, want %d", won, len(walk(t, s)), rounds)
	}
}

func TestMounts(t *testing.T) {
	privilege.NeedRoot(t)
	s, lower := open(t)
	if err := os.WriteFile(filepath.Join(lower, "f"), []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	sn, err := s.Prepare(t.Context(), "c", []string{lower}, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if err := sn.Overlay().Mount(target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if fi, err := os.Stat(target); err != nil || fi.Mode().Perm() != 0o751 {
		t.Errorf("the root of the mount: %v, %v, want the mode of the lower", fi, err)
	}
	if err := os.WriteFile(filepath.Join(target, "f"), []byte("above"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(sn.Upper, "f"))
	if err != nil || string(got) != "above" {
		t.Errorf("the upper has %q, %v", got, err)
	}
}

// TestRemoveWithoutInodes: what makes room does not need any.
func TestRemoveWithoutInodes(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=40"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := snapshot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if _, err := s.Prepare(t.Context(), id, []string{t.TempDir()}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; err == nil; i++ {
		err = os.Mkdir(filepath.Join(dir, "a", "upper", fmt.Sprint(i)), 0o700)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	remove, err := s.Expire("b", time.Now().Add(time.Hour))
	if err != nil || remove == nil {
		t.Fatalf("expiring: %v", err)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
