package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCacheIsHeldToItsSize: the first build on a store has nothing old to collect; later ones look
// once an hour.
func TestCacheIsHeldToItsSize(t *testing.T) {
	b := newBench(t)
	b.CacheSize = 1
	size := func() (bytes int64) {
		list, err := b.Cache(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			bytes += e.Size
		}
		return bytes
	}
	lines := []string{"FROM busybox", "RUN seq 1 20000 >/f"}
	b.must(Options{Tags: []string{"app"}}, lines...)
	if size() <= b.CacheSize {
		t.Error("the first build collected")
	}
	stamp := filepath.Join(b.Store.Root(), "build", "collected")
	old := time.Now().Add(-2 * collectEvery)
	if err := os.Chtimes(stamp, old, old); err != nil {
		t.Fatal(err)
	}
	b.must(Options{Tags: []string{"app"}}, lines...)
	if n := size(); n > b.CacheSize {
		t.Errorf("%d bytes are left of a cache of one", n)
	}
	b.must(Options{Tags: []string{"app"}}, lines...)
	if size() <= b.CacheSize {
		t.Error("the cache was collected again within the hour")
	}
}
