package build

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestSameBytesOnAnyNumberOfThreads: on a machine of one core, of two and of sixteen, in two
// compressions, an image has the same digest, though its layers are copied, read, hashed and compressed
// in pieces by all of them.
func TestSameBytesOnAnyNumberOfThreads(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	files := map[string]string{}
	for i := range 400 {
		files[fmt.Sprintf("src/d%02d/f%03d", i%20, i)] = strings.Repeat(fmt.Sprint(random.Uint64()), i%30)
	}
	var large strings.Builder // several blocks of either compression
	for range 500_000 {
		fmt.Fprintf(&large, "%d %x\n", random.Uint32(), random.Uint32())
	}
	files["large"] = large.String()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	epoch := time.Unix(1_600_000_000, 0)
	for _, compression := range []string{"gzip", "zstd"} {
		var first digest.Digest
		for _, threads := range []int{1, 2, 16} {
			runtime.GOMAXPROCS(threads)
			b := newBench(t)
			b.write(files)
			res, _, err := b.build(Options{Form: Form{Compression: compression}, Epoch: &Epoch{&epoch}},
				"FROM busybox", "COPY src /src", "COPY large /", "RUN for i in $(seq 200); do echo $i >/src/d01/new$i; done && rm -r /src/d07")
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = res.Target.Digest
			}
			if res.Target.Digest != first {
				t.Errorf("%s: with %d threads the image is %s, with one it is %s", compression, threads, res.Target.Digest, first)
			}
		}
	}
}
