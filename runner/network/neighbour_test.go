package network

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMakeRoom(t *testing.T) {
	dir := t.TempDir()
	v4 := filepath.Join(dir, "net/ipv4/neigh/default")
	if err := os.MkdirAll(v4, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]string{"gc_thresh1": "128\n", "gc_thresh3": "100000\n"} {
		if err := os.WriteFile(filepath.Join(v4, name), []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	makeRoom(dir) // no IPv6, and one file is missing
	for name, want := range map[string]string{"gc_thresh1": "8192", "gc_thresh3": "100000\n", "gc_thresh2": ""} {
		if got, _ := os.ReadFile(filepath.Join(v4, name)); string(got) != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
