package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// apply unpacks data beside a sentinel.
func apply(t testing.TB, ctx context.Context, data io.Reader, o layer.ApplyOptions) (dir string, res layer.Result, err error) {
	t.Helper()
	base := t.TempDir()
	dir = filepath.Join(base, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := newSentinel(t, filepath.Join(base, "sentinel"))
	res, err = layer.Apply(ctx, dir, data, o)
	outside.check(t)
	return dir, res, err
}

// TestMalformed is about tars that no library writes.
func TestMalformed(t *testing.T) {
	privilege.NeedRoot(t)
	good := makeTar(t, f("a", "content"), f("b", strings.Repeat("x", 5000)))
	base256 := func(field []byte, v int64) {
		for i := range field {
			field[i] = 0
			if v < 0 {
				field[i] = 0xff
			}
		}
		binary.BigEndian.PutUint64(field[len(field)-8:], uint64(v))
		field[0] |= 0x80
	}
	long := func(name string) []byte { // GNU long name, then a file
		b := raw(t, "././@LongLink", "", 'L', func(h []byte) { copy(h[124:], fmt.Sprintf("%011o\x00", len(name))) })[:512]
		b = append(b, make([]byte, (len(name)+511)/512*512)...)
		copy(b[512:], name)
		return append(b, raw(t, "x", "", '0', nil)...)
	}
	pax := func(kind byte, records string) []byte {
		b := raw(t, "pax", "", kind, func(h []byte) { copy(h[124:], fmt.Sprintf("%011o\x00", len(records))) })[:512]
		b = append(b, make([]byte, (len(records)+511)/512*512)...)
		copy(b[512:], records)
		return append(b, raw(t, "x", "", '0', nil)...)
	}
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
			n++
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	for _, tc := range []struct {
		name string
		data []byte
		want []string // nil: invalid
	}{
		{"zero bytes", nil, []string{}},
		{"zeros", make([]byte, 4096), []string{}},
		{"bytes after the end", append(bytes.Clone(good), "garbage"...), []string{"f a content", "f b 5000 bytes"}},
		{"no end", good[:len(good)-1024], []string{"f a content", "f b 5000 bytes"}},
		{"garbage", bytes.Repeat([]byte("garbage "), 200), nil},
		{"cut in a header", good[:300], nil},
		{"cut in what pads a file", good[:700], []string{"f a content"}},
		{"cut in a file", good[:len(good)-3000], nil},
		{"wrong checksum", append([]byte{'X'}, good[1:]...), nil},
		{"root becomes file", raw(t, "./", "", '0', nil), nil},
		{"regular file with a slash at its end", raw(t, "a/", "", '0', nil), []string{"f a "}},
		{"directory of the old kind", raw(t, "a/", "", 0, nil), []string{"d a"}},
		{"label of a volume", raw(t, "label", "", 'V', nil), []string{}},
		{"part of a volume", raw(t, "a", "", 'M', nil), nil},
		{"no name", raw(t, "", "", '0', nil), nil},
		{"negative owner", raw(t, "a", "", '0', func(h []byte) { base256(h[108:116], -1) }), nil},
		{"owner of 2^63", raw(t, "a", "", '0', func(h []byte) { base256(h[108:116], 1<<55) }), nil},
		{"negative size", raw(t, "a", "", '0', func(h []byte) { base256(h[124:136], -5) }), nil},
		{"size of 2^60", raw(t, "a", "", '0', func(h []byte) { base256(h[124:136], 1<<60) }), nil},
		{"negative time", raw(t, "a", "", '0', func(h []byte) { base256(h[136:148], -1<<40) }), []string{"f a "}},
		{"huge time", raw(t, "a", "", '0', func(h []byte) { base256(h[136:148], 1<<60) }), []string{"f a "}},
		{"type in the mode", raw(t, "a", "", '0', func(h []byte) { copy(h[100:], "0120777\x00") }), []string{"f a "}},
		{"link with a size", raw(t, "l", "to", '2', func(h []byte) { copy(h[124:], "00000001000\x00") }), []string{"l l -> to"}},
		{"directory with a size", raw(t, "d", "", '5', func(h []byte) { copy(h[124:], "00000001000\x00") }), []string{"d d"}},
		{"GNU long name with a zero byte", long("../../etc\x00/passwd"), nil},
		{"GNU long name out", long("../" + strings.Repeat("a", 200)), nil},
		{"GNU long name of 2 MB", long(strings.Repeat("a/", 1<<20)), nil},
		{"PAX name out", pax('x', record("path", "../../x")), nil},
		{"PAX name with a zero byte", pax('x', record("path", "a\x00b")), nil},
		{"PAX name", pax('x', record("path", "y")), []string{"f y "}},
		{"PAX header of 2 MB", pax('x', record("comment", strings.Repeat("c", 2<<20))), nil},
		{"PAX record that lies about its length", pax('x', "99999 path=y\n"), nil},
		{"PAX size that is no number", pax('x', record("size", "lots")), nil},
		{"PAX size out of range", pax('x', record("size", "99999999999999999999999")), nil},
		{"PAX negative size", pax('x', record("size", "-1")), nil},
		{"PAX uid out of range", pax('x', record("uid", "4294967296")), nil},
		{"global PAX header", pax('g', record("path", "../../x")), []string{"f x "}},
		{"LIBARCHIVE xattr", pax('x', record("LIBARCHIVE.xattr.user.k", "dg")), []string{"f x "}},
		{"two of one PAX record", pax('x', record("path", "../a")+record("path", "b")), []string{"f b "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, _, err := apply(t, t.Context(), bytes.NewReader(tc.data), layer.ApplyOptions{})
			if tc.want == nil {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("got %v, want invalid", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, append([]string{}, list(t, dir, false)...)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestSparse unpacks what GNU tar makes of a file with holes, in all its formats.
func TestSparse(t *testing.T) {
	privilege.NeedRoot(t)
	src := t.TempDir()
	const size = 64 << 20
	p := filepath.Join(src, "sparse")
	w, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for _, at := range []int{0, 5 << 20, 40<<20 + 12345} {
		copy(want[at:], "data here")
		if _, err := w.WriteAt([]byte("data here"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Truncate(size), w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"}} {
		data, err := exec.Command("tar", append(format, "-S", "-C", src, "-c", "sparse")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > size/2 {
			t.Fatalf("%v: tar stored %d bytes, no holes", format, len(data))
		}
		dir, _, err := apply(t, t.Context(), bytes.NewReader(data), layer.ApplyOptions{})
		if err != nil {
			t.Errorf("%v: %v", format, err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, "sparse"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: the content differs, %v", format, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "sparse"), &st); err != nil || st.Blocks*512 > size/2 {
			t.Errorf("%v: it takes %d bytes on disk, %v", format, st.Blocks*512, err)
		}
	}
}

// TestLimits is about tars that are small but claim to be large.
func TestLimits(t *testing.T) {
	privilege.NeedRoot(t)
	many := make([]file, 50)
	for i := range many {
		many[i] = f(fmt.Sprint("f", i), "x")
	}
	bomb := sparseBomb(t, 1<<50)
	for _, tc := range []struct {
		name string
		data []byte
		o    layer.ApplyOptions
	}{
		{"entries", makeTar(t, many...), layer.ApplyOptions{MaxEntries: 49}},
		{"bytes", makeTar(t, many...), layer.ApplyOptions{MaxBytes: 49}},
		{"a sparse file of a petabyte", bomb, layer.ApplyOptions{}},
	} {
		if _, _, err := apply(t, t.Context(), bytes.NewReader(tc.data), tc.o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want invalid", tc.name, err)
		}
	}
	if _, _, err := apply(t, t.Context(), bytes.NewReader(makeTar(t, many...)), layer.ApplyOptions{MaxEntries: 50, MaxBytes: 50}); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

// sparseBomb is a file of that size with nothing in it: PAX format 0.1.
func sparseBomb(t *testing.T, size int64) []byte {
	t.Helper()
	src := t.TempDir()
	w, err := os.Create(filepath.Join(src, "bomb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Truncate(1<<30), w.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := exec.Command("tar", "--format=posix", "--sparse-version=0.1", "-S", "-C", src, "-c", "bomb").Output()
	if err != nil {
		t.Fatal(err)
	}
	old, bad := fmt.Sprintf("GNU.sparse.size=%d\n", 1<<30), fmt.Sprintf("GNU.sparse.size=%d\n", size)
	old, bad = fmt.Sprintf("%d %s", len(old)+3, old), fmt.Sprintf("%d %s", len(bad)+3, bad)
	i := bytes.Index(data, []byte(old))
	if i < 0 {
		t.Fatalf("no %q in the tar", old)
	}
	// The records of the header grow into what pads them.
	end := i + bytes.IndexByte(data[i:], 0)
	grown := append([]byte(bad), data[i+len(old):end]...)
	out := bytes.Clone(data)
	copy(out[i:], grown)
	// The header of the records knows how long they are.
	h := out[:512]
	copy(h[124:], fmt.Sprintf("%011o\x00", i-512+len(grown)))
	sum := 8 * int(' ')
	for j, c := range h {
		if j < 148 || j >= 156 {
			sum += int(c)
		}
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	if _, err := tar.NewReader(bytes.NewReader(out)).Next(); err != nil {
		t.Fatalf("the bomb is no tar: %v", err)
	}
	return out
}

// TestCancel ends while one file goes on for ever.
func TestCancel(t *testing.T) {
	privilege.NeedRoot(t)
	head := raw(t, "a", "", '0', func(h []byte) { copy(h[124:], "77777777777\x00") })[:512]
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	_, _, err := apply(t, ctx, io.MultiReader(bytes.NewReader(head), zeros{}), layer.ApplyOptions{})
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause of the end", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReaderFails passes the reader's error on, and does not call it the tar's fault.
func TestReaderFails(t *testing.T) {
	privilege.NeedRoot(t)
	broken := errors.New("connection lost")
	data := makeTar(t, f("a", strings.Repeat("x", 100000)))
	for _, n := range []int{0, 100, 600, 50000} {
		_, _, err := apply(t, t.Context(), io.MultiReader(bytes.NewReader(data[:n]), failing{broken}), layer.ApplyOptions{})
		if !errors.Is(err, broken) || errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("after %d bytes: got %v, want the reader's error", n, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
