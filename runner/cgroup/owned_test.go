package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTopmostWritable finds the highest group on the way that takes processes, as systemd's
// user@UID.service is.
func TestTopmostWritable(t *testing.T) {
	root := t.TempDir()
	own := filepath.Join(root, "user.slice/user-1000.slice/user@1000.service/app.slice/shell")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := topmostWritable(root, own); got != "" {
		t.Errorf("without any group of ours it is %q", got)
	}
	for _, dir := range []string{own, filepath.Dir(own), filepath.Dir(filepath.Dir(own))} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := topmostWritable(root, own), "/user.slice/user-1000.slice/user@1000.service"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := topmostWritable(own, root); got != "" {
		t.Errorf("above the root of the hierarchy it is %q", got)
	}
}
