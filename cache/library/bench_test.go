package library

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/test/privilege"
)

// BenchmarkAll lists 5,000 images of 10 layers, of which 1,000 are different.
func BenchmarkAll(b *testing.B) {
	privilege.NeedRoot(b)
	root := os.Getenv("TEU_BENCH_ROOT") // to look at it with the command line
	if root == "" {
		root = b.TempDir()
	}
	s, err := cache.Open(root, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	l := &Library{Store: s, Registry: registry.New(registry.Options{})}
	for i := range 5000 {
		var files []string
		for j := range 10 {
			files = append(files, fmt.Sprint((i+j*37)%1000))
		}
		d := put(b, l, content.Host(), time.Unix(int64(1e9+i), 0), files...)
		if _, err := l.unpack(b.Context(), d, nil); err != nil {
			b.Fatal(err)
		}
		name(b, l, d, fmt.Sprintf("docker.io/library/image%d:%d", i/10, i))
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(root, "images/names"), past, past); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		all, err := l.All(b.Context())
		if err != nil || len(all) != 5000 {
			b.Fatal(len(all), err)
		}
	}
}
