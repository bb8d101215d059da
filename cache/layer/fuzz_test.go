package layer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/test/privilege"
)

// FuzzApply unpacks anything beside a tree that must stay as it is.
func FuzzApply(f *testing.F) {
	privilege.NeedRoot(f)
	for _, tc := range zoo() {
		if data := makeTar(f, tc.files...); len(data) < 20<<10 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "layer")
		must(t, os.Mkdir(dir, 0o755))
		outside := newSentinel(t, filepath.Join(base, "sentinel"))
		_, _ = layer.Apply(t.Context(), dir, bytes.NewReader(data), layer.ApplyOptions{MaxEntries: 1000, MaxBytes: 1 << 20})
		outside.check(t)
		if entries, err := os.ReadDir(base); err != nil || len(entries) != 2 {
			t.Errorf("beside the layer: %v, %v", entries, err)
		}
	})
}

// FuzzNames builds tars out of a few names that meet often: what a fuzzer of bytes finds rarely.
func FuzzNames(f *testing.F) {
	privilege.NeedRoot(f)
	f.Add([]byte("abcdefgh"))
	f.Add([]byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99"))
	names := []string{"a", "b", "a/b", "b/a", "a/b/c", "../sentinel", "../sentinel/file", "/a", "a/../b", ".wh.a", ".wh..wh..opq", "a/.wh..wh..opq", "a/.wh.b", ".", "..", "b/../../sentinel/sub"}
	f.Fuzz(func(t *testing.T, data []byte) {
		var files []file
		for ; len(data) >= 2 && len(files) < 50; data = data[2:] {
			name, target := names[data[0]&15], names[data[0]>>4]
			e := entry("01234567"[data[1]&7], name).mode(int64(data[1]>>3)<<4 | 0o600)
			if e.Typeflag == '1' || e.Typeflag == '2' {
				e.Linkname = target
			}
			if e.Typeflag == '3' || e.Typeflag == '4' {
				e.Devmajor, e.Devminor = 1, 3
			}
			e.Name = name
			files = append(files, e)
		}
		base := t.TempDir()
		dir := filepath.Join(base, "layer")
		must(t, os.Mkdir(dir, 0o755))
		outside := newSentinel(t, filepath.Join(base, "sentinel"))
		res, err := layer.Apply(t.Context(), dir, bytes.NewReader(makeTar(t, files...)), layer.ApplyOptions{})
		outside.check(t)
		for _, p := range res.Implicit {
			if fi, lerr := os.Lstat(filepath.Join(dir, p)); err == nil && (lerr != nil || !fi.IsDir()) {
				t.Errorf("%s is called an implicit directory: %v", p, lerr)
			}
		}
	})
}

// bigTar is like a layer of a language's runtime: many small files and a few large ones.
func bigTar(t testing.TB, files int, bytesTotal int64) []byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []file
	var total int64
	for i := range files {
		dir := fmt.Sprintf("usr/lib/pkg%d/sub%d", i/200, i/20%10)
		if i%20 == 0 {
			all = append(all, d(dir))
		}
		size := int64(rnd.IntN(8000))
		if left := bytesTotal - total; i%100 == 0 {
			size = left / int64(files-i) * 60
		}
		total += size
		all = append(all, f(fmt.Sprintf("%s/file%d.py", dir, i), string(bytes.Repeat([]byte{byte(i)}, int(size)))))
	}
	return makeTar(t, all...)
}

// BenchmarkApply unpacks 200 MB in 12,000 files; compare with BenchmarkGNUTar. Run it with TMPDIR on a tmpfs.
func BenchmarkApply(b *testing.B) {
	privilege.NeedRoot(b)
	data := bigTar(b, 12000, 200<<20)
	id := digest.FromBytes(data)
	base := b.TempDir()
	s := open(b, filepath.Join(base, "layers"))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Apply(b.Context(), id, bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, s.Remove(b.Context(), id.Encoded()))
		b.StartTimer()
	}
}

func BenchmarkGNUTar(b *testing.B) {
	privilege.NeedRoot(b)
	data := bigTar(b, 12000, 200<<20)
	base := b.TempDir()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		dir := filepath.Join(base, "x")
		must(b, os.Mkdir(dir, 0o755))
		cmd := exec.Command("tar", "-xpf", "-", "-C", dir)
		cmd.Stdin = bytes.NewReader(data)
		must(b, cmd.Run())
		b.StopTimer()
		must(b, os.RemoveAll(dir))
		b.StartTimer()
	}
}

func BenchmarkSeal(b *testing.B) {
	privilege.NeedRoot(b)
	data := bigTar(b, 12000, 200<<20)
	base := b.TempDir()
	s := open(b, filepath.Join(base, "layers"))
	l := put(b, s, f("x", ""))
	_, err := layer.Apply(b.Context(), s.Path(l.ID), bytes.NewReader(data), layer.ApplyOptions{})
	must(b, err)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		b.StopTimer()
		upper := filepath.Join(base, "upper")
		must(b, os.Rename(s.Path(l.ID), upper))
		a, err := s.Adopt(b.Context(), upper)
		must(b, err)
		b.StartTimer()
		_, err = s.Seal(b.Context(), a.ID, nil)
		must(b, err)
		b.StopTimer()
		must(b, os.Rename(s.Path(a.ID), s.Path(l.ID)))
		b.StartTimer()
	}
}
