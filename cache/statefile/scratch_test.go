package statefile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/teu-dev/teu/cache/statefile"
	"golang.org/x/sys/unix"
)

// The test runs itself as the process that dies.
func TestScratchOfADeadProcessIsSwept(t *testing.T) {
	if dir := os.Getenv("TEU_TEST_SCRATCH"); dir != "" {
		s, err := statefile.NewScratch(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Path(), "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestScratchOfADeadProcessIsSwept$")
	cmd.Env = append(os.Environ(), "TEU_TEST_SCRATCH="+dir)
	if err := cmd.Run(); err == nil {
		t.Fatal("the child was not killed")
	}
	mine, err := statefile.NewScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Fatalf("got %d directories, want that of the dead and mine", len(got))
	}
	if err := statefile.SweepScratch(dir); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 || got[0].Name() != filepath.Base(mine.Path()) {
		t.Fatalf("got %v after the sweep, want only mine", got)
	}
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Fatalf("got %v after Close, want nothing", got)
	}
}

func names(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// TestRemoveAllDeep makes a tree that is deeper than there are descriptors or bytes in a path.
func TestRemoveAllDeep(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("stays"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(tree, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if err := unix.Mkdirat(fd, "deeper", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Symlinkat(outside, fd, "link"); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "deeper", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if err := statefile.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Fatalf("got %v, want only the file outside", got)
	}
	if err := statefile.RemoveAll(tree); err != nil {
		t.Fatalf("removing what is gone: %v", err)
	}
	if err := os.Symlink(outside, tree); err != nil {
		t.Fatal(err)
	}
	if err := statefile.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Fatalf("got %v, want only the file outside", got)
	}
}
