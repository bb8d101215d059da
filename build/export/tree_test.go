package export

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/teu-dev/teu/cache/rootfs"
)

// A file of a few bytes may have terabytes of zeros: who waits for a result with one can stop.
func TestTreesEndWithTheContext(t *testing.T) {
	const size = 1 << 36
	from, err := os.MkdirTemp("/dev/shm", "teu-test-") // btrfs would make the copy share the file's blocks, in no time
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(from)
	if err := errors.Join(os.WriteFile(from+"/f", nil, 0o644), os.Truncate(from+"/f", size)); err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, write := range map[string]func(ctx context.Context, to string) error{
		"tar": func(ctx context.Context, _ string) error {
			return WriteTar(ctx, tar.NewWriter(io.Discard), root, TreeOptions{})
		},
		"directory": func(ctx context.Context, to string) error { return WriteDir(ctx, to, root, TreeOptions{}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		to := t.TempDir()
		if err := write(ctx, to); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v", name, err)
		}
		cancel()
		if fi, err := os.Stat(filepath.Join(to, "f")); !errors.Is(err, fs.ErrNotExist) && (err != nil || fi.Size() >= size) {
			t.Errorf("%s: all of it was written: %v, %v", name, fi, err)
		}
	}
}
