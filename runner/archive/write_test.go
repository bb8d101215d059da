package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

func write(t *testing.T, dir string) ([]*tar.Header, error) {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out bytes.Buffer
	failure := Write(t.Context(), &out, root, ".", "", WriteOptions{})
	var list []*tar.Header
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) || err != nil && failure != nil {
			return list, failure
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h)
	}
}

// A file with an attribute that no archive can have comes without it.
func TestWriteOfAnAttributeThatTarHasNot(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"user.a=b", "user.c"} {
		if err := unix.Setxattr(dir+"/f", name, []byte("v"), 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("the file system has no attributes of users")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	list, err := write(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].PAXRecords[xattrPrefix+"user.c"] != "v" {
		t.Errorf("got %v", list)
	}
}

// A file of a few bytes may claim to have a petabyte, and then be cut short: who reads it can stop.
func TestWriteEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/f", nil, 0o644), os.Truncate(dir+"/f", 1<<42)); err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, cut := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		r, w := io.Pipe()
		go func() { // the reader goes on, so that nothing but the context ends it
			b := make([]byte, 1<<20)
			for begun := time.Now(); time.Since(begun) < 20*time.Second; {
				n, err := r.Read(b)
				if err != nil {
					return
				}
				if n > 0 && cut {
					os.Truncate(dir+"/f", 0)
				}
			}
			r.CloseWithError(errors.New("it does not end"))
		}()
		err := Write(ctx, w, root, ".", "", WriteOptions{})
		if w.Close(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cut %v: got %v", cut, err)
		}
		cancel()
	}
}

// The descriptors that a deep tree takes are bounded.
func TestWriteOfADeepTree(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range 3000 {
		if err == nil {
			err = unix.Mkdirat(at, "d", 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		var next int
		next, err = unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	list, err := write(t, dir)
	if !errdefs.IsInvalidArgument(err) || len(err.Error()) > 500 {
		t.Errorf("got %.600v, want a short errdefs.ErrInvalidArgument", err)
	}
	if len(list) != 2048 || strings.Count(list[2047].Name, "d") != 2048 {
		t.Errorf("%d entries", len(list))
	}
}
