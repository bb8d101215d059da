package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

// samples are plain bytes of many kinds.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := strings.Repeat("the layer of an image is a tar of what changed; ", 9000)
	mixed := bytes.Buffer{}
	for mixed.Len() < 2<<20 {
		switch r.IntN(4) {
		case 0:
			mixed.Write(noise[:r.IntN(5000)])
		case 1:
			from := r.IntN(len(text) - 100)
			mixed.WriteString(text[from : from+r.IntN(100)])
		case 2:
			mixed.Write(make([]byte, r.IntN(70000)))
		case 3:
			back := min(r.IntN(40000), mixed.Len())
			mixed.Write(mixed.Bytes()[mixed.Len()-back:][:r.IntN(back+1)])
		}
	}
	skewed := make([]byte, 400<<10) // long codes for rare bytes
	for i := range skewed {
		for skewed[i] = 0; r.IntN(2) == 0 && skewed[i] < 250; skewed[i]++ {
		}
	}
	periods := bytes.Buffer{}
	for p := 1; p < 40; p++ {
		periods.Write(bytes.Repeat(noise[p*50:p*50+p], 2000/p))
	}
	return map[string][]byte{
		"nothing": {}, "a byte": {7}, "zeros": make([]byte, 1<<20), "noise": noise, "text": []byte(text),
		"mixed": mixed.Bytes(), "skewed": skewed, "periods": periods.Bytes(),
	}
}

func packed(t testing.TB, level int, plain []byte) []byte {
	var b bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(r io.Reader) ([]byte, error) {
	z, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestReader(t *testing.T) {
	for name, plain := range samples() {
		for level := stdgzip.HuffmanOnly; level <= stdgzip.BestCompression; level++ {
			data := packed(t, level, plain)
			for how, r := range map[string]io.Reader{
				"at once": bytes.NewReader(data), "halves": iotest.HalfReader(bytes.NewReader(data)),
				"bytes": iotest.OneByteReader(bytes.NewReader(data)), "end with data": iotest.DataErrReader(bytes.NewReader(data)),
			} {
				got, err := unpack(r)
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s, level %d, %s: %d bytes of %d, %v", name, level, how, len(got), len(plain), err)
				}
			}
		}
	}
}

func TestMembers(t *testing.T) {
	all := samples()
	data := append(packed(t, 6, all["text"]), packed(t, 0, all["noise"])...)
	data = append(data, packed(t, 9, nil)...)
	want := append(bytes.Clone(all["text"]), all["noise"]...)
	if got, err := unpack(bytes.NewReader(data)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("three members: %d bytes of %d, %v", len(got), len(want), err)
	}
	for _, behind := range []string{"garbage", "\x00\x00"} {
		if _, err := unpack(strings.NewReader(string(data) + behind)); err == nil {
			t.Errorf("%q behind the last member passes", behind)
		}
	}
	// A match may not reach into the member before.
	first, second := packed(t, 6, bytes.Repeat([]byte("x"), 1000)), []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 0x03 | 0x40<<1, 0x13, 0, 0, 0, 0, 0, 0, 0}
	if _, err := unpack(bytes.NewReader(append(first, second...))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a match before the beginning of its member: %v", err)
	}
}

// TestDamage cuts and changes what is read at every place.
func TestDamage(t *testing.T) {
	plain := samples()["mixed"][:40000]
	for _, level := range []int{0, 1, 6, stdgzip.HuffmanOnly} {
		data := packed(t, level, plain)
		for cut := range len(data) {
			if cut > 400 && cut < len(data)-400 && cut%97 != 0 {
				continue
			}
			got, err := unpack(bytes.NewReader(data[:cut]))
			if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(plain, got) {
				t.Fatalf("level %d, cut at %d of %d: %d bytes, %v", level, cut, len(data), len(got), err)
			}
			broken := errors.New("broken")
			if _, err := unpack(io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(broken))); err != broken {
				t.Fatalf("level %d, source broken at %d: %v", level, cut, err)
			}
			changed := bytes.Clone(data)
			changed[cut] ^= 1 << (cut % 8)
			same(t, changed)
		}
	}
}

// same has data read by this package and another: whether there is an error is the same, and so are the bytes, as
// far as both have any, which where the sums are wrong is all.
func same(t *testing.T, data []byte) {
	const most = 4 << 20
	got, err := limited(func(r io.Reader) (io.Reader, error) { return NewReader(r) }, data, most)
	want, wantErr := limited(func(r io.Reader) (io.Reader, error) { return stdgzip.NewReader(r) }, data, most)
	both := min(len(got), len(want))
	if errors.Is(wantErr, stdgzip.ErrChecksum) || err == nil {
		both = max(len(got), len(want))
	}
	if (err == nil) != (wantErr == nil) || !bytes.Equal(got[:min(both, len(got))], want[:min(both, len(want))]) {
		t.Fatalf("got %d bytes, %v, want %d, %v, of %x", len(got), err, len(want), wantErr, data[:min(len(data), 200)])
	}
}

func limited(open func(io.Reader) (io.Reader, error), data []byte, most int64) ([]byte, error) {
	r, err := open(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, most))
}

func FuzzReader(f *testing.F) {
	for _, plain := range samples() {
		for _, level := range []int{stdgzip.HuffmanOnly, 0, 1, 9} {
			f.Add(packed(f, level, plain[:min(len(plain), 3000)]))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { same(t, data) })
}

func benchmark(b *testing.B, open func(io.Reader) (io.Reader, error)) {
	plain := samples()["mixed"]
	data := packed(b, 6, plain)
	if file := os.Getenv("INFLATE_BENCH"); file != "" {
		var err error
		if data, err = os.ReadFile(file); err != nil {
			b.Fatal(err)
		}
		if plain, err = unpack(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := open(bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(struct{ io.Writer }{io.Discard}, r); err != nil || n != int64(len(plain)) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	benchmark(b, func(r io.Reader) (io.Reader, error) { return NewReader(r) })
}

func BenchmarkKlauspost(b *testing.B) {
	benchmark(b, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) })
}
