package statefile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSweepLocks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b") // no pattern
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"held.lock", "free.lock", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := Lock(t.Context(), filepath.Join(dir, "held.lock"), LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := SweepLocks(dir); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 || left[0].Name() != "held.lock" || left[1].Name() != "other" {
		t.Errorf("left %v, %v", left, err)
	}
}
