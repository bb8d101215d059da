package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/teu-dev/teu/cache/layer"
)

// forest is a tree with more files than are read ahead: small, empty and large ones, deep and wide.
func forest(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 600 {
		p := filepath.Join(dir, fmt.Sprintf("d%d", i%7), strings.Repeat("deep/", i%13), fmt.Sprintf("f%03d", i))
		size := i % 50
		switch i % 60 {
		case 0:
			size = 200_000 + i // is read when its turn comes
		case 1:
			size = 60_000
		}
		must(t, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, bytes.Repeat([]byte{byte(i)}, size), 0o644))
	}
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("d3/big%02d", i)), make([]byte, 64<<10), 0o600)) // more than a portion holds
	}
	return dir
}

// TestTarOfManyFiles: order and content do not depend on how much is read at the same time.
func TestTarOfManyFiles(t *testing.T) {
	dir := forest(t)
	var want []string
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if p == dir || err != nil {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		if e.IsDir() {
			want = append(want, name+"/ ")
			return nil
		}
		data, err := os.ReadFile(p)
		want = append(want, fmt.Sprintf("%s %d %x", name, len(data), data[:min(len(data), 4)]))
		return err
	}))
	var first []byte
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 16} {
		runtime.GOMAXPROCS(procs)
		var b bytes.Buffer
		must(t, layer.WriteTar(t.Context(), dir, &b, layer.TarOptions{}))
		if first == nil {
			first = bytes.Clone(b.Bytes())
		}
		if !bytes.Equal(first, b.Bytes()) {
			t.Errorf("with %d threads the tar is another", procs)
		}
	}
	var got []string
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		if hdr.Typeflag == tar.TypeDir {
			got = append(got, hdr.Name+" ")
			continue
		}
		got = append(got, fmt.Sprintf("%s %d %x", hdr.Name, len(data), data[:min(len(data), 4)]))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestTarThatEndsEarly: nothing stays open when the writer or the context has enough.
func TestTarThatEndsEarly(t *testing.T) {
	dir := forest(t)
	before := descriptors(t)
	full := errors.New("full")
	for _, room := range []int{0, 1000, 300_000, 1_000_000, 2_000_000} {
		w := &limited{room: room, err: full}
		if err := layer.WriteTar(t.Context(), dir, w, layer.TarOptions{}); !errors.Is(err, full) {
			t.Errorf("a writer with room for %d bytes: got %v", room, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w = &limited{room: room, err: nil, full: cancel}
		if err := layer.WriteTar(ctx, dir, w, layer.TarOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled after %d bytes: got %v", room, err)
		}
		cancel()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// limited fails with err, or calls full, when it has taken room bytes.
type limited struct {
	room int
	err  error
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.room -= len(p); l.room > 0 {
		return len(p), nil
	}
	if l.full != nil {
		l.full()
	}
	return len(p), l.err
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}
