package layer

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// sizes keeps the sizes of what is written to it.
type sizes struct {
	bytes.Buffer
	list []int
}

func (s *sizes) Write(p []byte) (int, error) {
	s.list = append(s.list, len(p))
	return s.Buffer.Write(p)
}

// TestGatherer: what goes in comes out, in portions of one size and a rest.
func TestGatherer(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var want []byte
	var got sizes
	g := &gatherer{w: &got}
	for _, n := range []int{0, 1, bufferSize - 1, bufferSize, 7, 3 * bufferSize, bufferSize - 7, 512, 2*bufferSize + 9} {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		if k, err := g.Write(p); k != n || err != nil {
			t.Fatalf("%d bytes of %d, %v", k, n, err)
		}
		want = append(want, p...)
	}
	if err := g.flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("other bytes came out")
	}
	for i, n := range got.list[:len(got.list)-1] {
		if n != bufferSize {
			t.Errorf("portion %d of %d bytes, want %d", i, n, bufferSize)
		}
	}
}

// TestSmallLayerTakesLittleMemory: a step of a build that writes a small file has its layer's digest computed
// beside the steps that follow.
func TestSmallLayerTakesLittleMemory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 256 << 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := writeTar(context.Background(), dir, io.Discard, false, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("%d bytes of memory, want no more than %d", n, most)
	}
}
