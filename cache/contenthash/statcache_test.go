package contenthash

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// putOld remembers a file as if it were old. Its ctime cannot be set, so it is
// read later instead.
func putOld(c *statCache, path string, n *node) { c.put(path, n, time.Now().Add(time.Hour)) }

func newNode(t *testing.T, path, content string) *node {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return statNode(t, path)
}

func statNode(t *testing.T, path string) *node {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	n := &node{name: filepath.Base(path)}
	n.set(&st)
	return n
}

func TestCacheRoundTrip(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "deep", "cache")
	c := loadCache(file, true)
	nodes := map[string]*node{}
	for i := range 50 {
		p := fmt.Sprintf("/d%d/file\xff%d", i%3, i)
		n := newNode(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint("content ", i))
		tree := hashed(t, dir, n.name)
		n.own = tree
		putOld(c, p, n)
		nodes[p] = n
	}
	if err := c.save(file, true); err != nil {
		t.Fatal(err)
	}
	again := loadCache(file, true)
	for p, n := range nodes {
		if got := again.get(p, n); got != n.own {
			t.Errorf("%q: got %s, want %s", p, got, n.own)
		}
		for _, change := range []func(*node){
			func(n *node) { n.size++ }, func(n *node) { n.ino++ }, func(n *node) { n.mtime-- }, func(n *node) { n.ctime++ },
		} {
			other := *n
			change(&other)
			if got := again.get(p, &other); got != "" {
				t.Errorf("%q: a changed file was found", p)
			}
		}
	}
	if got := again.get("/other", nodes["/d0/file\xff0"]); got != "" {
		t.Error("another path was found")
	}
	if other := loadCache(file, false); len(other.entries) != 0 {
		t.Error("a cache made with another ResetOwner was used")
	}
}

func hashed(t *testing.T, dir, name string) (d digest.Digest) {
	t.Helper()
	tree, err := OpenTree(dir, TreeOptions{ResetOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if d, err = tree.Digest(t.Context(), name, Selection{}); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDamagedCacheIsIgnored flips and cuts every byte.
func TestDamagedCacheIsIgnored(t *testing.T) {
	dir := t.TempDir()
	c := loadCache("", true)
	n := newNode(t, filepath.Join(dir, "f"), "x")
	n.own = hashed(t, dir, "f")
	putOld(c, "/f", n)
	putOld(c, "/g", n)
	good := c.encode(magicNoOwner)
	if entries, err := decodeCache(good, magicNoOwner); err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := decodeCache(bad, magicNoOwner); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
		if _, err := decodeCache(good[:i], magicNoOwner); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
	}
	file := filepath.Join(dir, "cache")
	if err := os.WriteFile(file, good[:len(good)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(dir, TreeOptions{CacheFile: file, ResetOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Digest(t.Context(), "f", Selection{}); err != nil || got != n.own {
		t.Errorf("with a damaged cache: %s, %v", got, err)
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

// TestYoungFilesAreNotRemembered is the race of git's "racily clean" files: a file that is changed
// in the same tick of the clock after it was read looks the same.
func TestYoungFilesAreNotRemembered(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, filepath.Join(dir, "f"), "x")
	n.own = hashed(t, dir, "f")
	c := loadCache("", true)
	c.put("/f", n, time.Now())
	if c.get("/f", n) != "" {
		t.Error("a file that was just written is remembered")
	}
	n.mtime = time.Now().Add(-time.Hour).UnixNano() // but its ctime is young
	c.put("/f", n, time.Now())
	if c.get("/f", n) != "" {
		t.Error("a file whose mtime was set back is remembered")
	}
	putOld(c, "/f", n)
	if c.get("/f", n) != n.own {
		t.Error("an old file is not remembered")
	}
	c.put("/f", n, time.Now())
	if c.get("/f", n) != "" {
		t.Error("an entry that cannot be trusted any more is still there")
	}
}

// TestCacheIsUsed plants a wrong digest, which only a tree that trusts its cache returns.
func TestCacheIsUsed(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, filepath.Join(dir, "f"), "x")
	right := hashed(t, dir, "f")
	n.own = hashed(t, dir, "/")
	c := loadCache("", true)
	putOld(c, "/f", n)
	file := filepath.Join(t.TempDir(), "cache")
	if err := c.save(file, true); err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(dir, TreeOptions{CacheFile: file, ResetOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if got, err := tree.Digest(t.Context(), "f", Selection{}); err != nil || got != n.own {
		t.Errorf("got %s, %v, want what the cache says", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh, err := OpenTree(dir, TreeOptions{CacheFile: file, ResetOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if got, err := fresh.Digest(t.Context(), "f", Selection{}); err != nil || got == n.own || got == right {
		t.Errorf("got %s, %v, want the digest of the new content", got, err)
	}
}

// TestChangeWhileReading is about a file that is not any more what the walk saw.
func TestChangeWhileReading(t *testing.T) {
	dir := t.TempDir()
	newNode(t, filepath.Join(dir, "f"), "x")
	tree, err := OpenTree(dir, TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if _, err := tree.Select(t.Context(), "/", Selection{}); err != nil { // looks at f
		t.Fatal(err)
	}
	newNode(t, filepath.Join(dir, "f"), "longer")
	if _, err := tree.Digest(t.Context(), "/f", Selection{}); !errors.Is(err, errdefs.ErrAborted) || !bytes.Contains([]byte(err.Error()), []byte("/f")) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func FuzzDecodeCache(f *testing.F) {
	c := loadCache("", true)
	c.put("/a/b", &node{size: 1, ino: 2, own: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}, time.Now())
	f.Add(c.encode(magicNoOwner)[len(magicNoOwner):])
	f.Add([]byte{0, 1, 'a', 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		good := append([]byte(magicNoOwner), body...)
		sum := sha256.Sum256(good)
		entries, err := decodeCache(append(good, sum[:]...), magicNoOwner)
		if err == nil && len(entries)*36 > len(body) {
			t.Errorf("%d entries in %d bytes", len(entries), len(body))
		}
	})
}

func BenchmarkUnchanged(b *testing.B) {
	dir := b.TempDir()
	for i := range 10000 {
		d := filepath.Join(dir, fmt.Sprintf("dir%d/sub%d", i%20, i%100))
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file%d.go", i)), bytes.Repeat([]byte("x"), 200), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	file := filepath.Join(b.TempDir(), "cache")
	time.Sleep(racy + 100*time.Millisecond)
	once := func() {
		tree, err := OpenTree(dir, TreeOptions{CacheFile: file, ResetOwner: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tree.Digest(b.Context(), "/", Selection{}); err != nil {
			b.Fatal(err)
		}
		if err := tree.Close(); err != nil {
			b.Fatal(err)
		}
	}
	once()
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
