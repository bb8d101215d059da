package statefile

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestRemoveAllBeside: whoever removes the same tree at the same time is no trouble.
func TestRemoveAllBeside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if n, err := new(remover).contents(f, 0); n != 0 || err != nil {
		t.Errorf("a directory that somebody else removed: %d, %v", n, err)
	}
	for range 50 {
		if err := os.MkdirAll(filepath.Join(dir, "a/b/c/d/e"), 0o700); err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 8 {
			g.Go(func() error { return RemoveAll(dir) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
