package runner

import (
	"os"
	"path/filepath"
	"testing"
)

// TestDiskUsage: busybox's hundreds of names are one file.
func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "busybox"), make([]byte, 1000), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 100), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ls", "sh"} {
		if err := os.Link(filepath.Join(dir, "busybox"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := diskUsage(dir); got != 1100 {
		t.Errorf("%d bytes, want 1100", got)
	}
}
