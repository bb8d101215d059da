package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// The hint about a store on an overlay is for commands that use the store.
func TestHintAboutAnOverlay(t *testing.T) {
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "teu-overlay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	for command, want := range map[string]bool{"run": true, "oci": false} {
		a := &app{root: root, words: []string{command}}
		var hint interface{ Hint() string }
		if got := errors.As(a.explain(fmt.Errorf("mounting: %w", unix.EINVAL)), &hint); got != want {
			t.Errorf("%s: a hint is %v, want %v", command, got, want)
		}
	}
}
