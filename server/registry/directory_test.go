package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestOpenDirectory(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new")
	for range 2 {
		if _, err := openDirectory(root, false); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(root); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("got mode %v (%v), want 0700", fi.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(root, "layout"), []byte("teu registry 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDirectory(root, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v for a layout of the future", err)
	}
}

// TestSyncerShares: who comes while a directory is being synced is served together by the
// next fsync, and not by the one that may have begun too early.
func TestSyncerShares(t *testing.T) {
	var calls atomic.Int32
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	s := newSyncer("/")
	broken := errors.New("broken")
	s.fsync = func(string) error {
		begun <- struct{}{}
		<-goOn
		if calls.Add(1) == 2 {
			return broken
		}
		return nil
	}
	var wg sync.WaitGroup
	var failed atomic.Int32
	wg.Go(func() {
		if err := s.dir("/a"); err != nil {
			t.Errorf("first: %v", err)
		}
	})
	<-begun
	for range 20 {
		wg.Go(func() {
			if errors.Is(s.dir("/a"), broken) {
				failed.Add(1)
			}
		})
	}
	for { // until all of them wait
		s.mu.Lock()
		users := s.queues["/a"].users
		s.mu.Unlock()
		if users == 21 {
			break
		}
	}
	close(goOn)
	wg.Wait()
	if calls.Load() != 2 || failed.Load() != 20 {
		t.Errorf("%d fsyncs, %d of 20 got the error of the second", calls.Load(), failed.Load())
	}
	if len(s.queues) != 0 {
		t.Errorf("%d queues were left", len(s.queues))
	}
}

// TestSyncerMkdir: each new name is synced once, and again after somebody removed it.
func TestSyncerMkdir(t *testing.T) {
	root := t.TempDir()
	s := newSyncer(root)
	var synced []string
	s.fsync = func(dir string) error {
		synced = append(synced, strings.TrimPrefix(dir, root))
		return nil
	}
	for range 2 {
		for range 2 {
			if err := s.mkdir(root + "/a/b"); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"", "/a"}; !slices.Equal(synced, want) {
			t.Errorf("synced %q, want %q", synced, want)
		}
		synced = nil
		if err := os.RemoveAll(root + "/a"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyTags makes more tags than a file can have links.
func TestManyTags(t *testing.T) {
	root := t.TempDir()
	s, err := openDirectory(root, false)
	if err != nil {
		t.Fatal(err)
	}
	c := serveOptions(t, Options{Root: root, AllowDelete: true})
	d := c.tagged("a", "first").Digest
	other := c.tagged("a", "other").Digest
	record := s.recordPath("a", d)
	for i := 0; ; i++ {
		err := os.Link(record, s.tagPath("a", fmt.Sprintf("t%d", i)))
		if errors.Is(err, unix.EMLINK) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 70_000 {
			t.Skip("this file system counts more than 70,000 links")
		}
	}
	c.tagged("a", "first") // is there already
	c.put("a", "one-more", c.image("a", "config of first", "layer of first"))
	c.put("a", "other", c.image("a", "config of first", "layer of first"))
	for _, tag := range []string{"first", "t0", "one-more", "other", d.String()} {
		a := c.want(c.do("GET", "/v2/a/manifests/"+tag, nil), 200, "")
		if got := a.header.Get("Docker-Content-Digest"); got != d.String() {
			t.Errorf("%s: got %s, want %s", tag, got, d)
		}
	}
	c.put("a", "other", c.image("a", "config of other", "layer of other"))
	c.want(c.do("DELETE", "/v2/a/manifests/"+d.String(), nil), 202, "")
	if got := tagsOf(c, "a", ""); !slices.Equal(got, []string{"other"}) {
		t.Errorf("%d tags are left of a deleted manifest: %.100v", len(got), got)
	}
	c.want(c.do("GET", "/v2/a/manifests/"+other.String(), nil), 200, "")
}

// TestManyRepositories has a blob in more repositories than a file can have links.
func TestManyRepositories(t *testing.T) {
	s, err := openDirectory(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.root, "links")
	d := digest.FromString("x")
	source := s.blobPath(d)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.MkdirAll(filepath.Dir(source), 0o700), os.WriteFile(source, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for i := range 70_000 {
		if err := s.linkBlob(source, filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "69999")); err != nil || string(b) != "x" {
		t.Errorf("got %q (%v)", b, err)
	}
}

// TestRemovedByHand: a repository that was removed while the server runs can be pushed to.
func TestRemovedByHand(t *testing.T) {
	root := t.TempDir()
	c := serveOptions(t, Options{Root: root})
	c.tagged("a", "x")
	if err := os.RemoveAll(filepath.Join(root, "repositories/a")); err != nil {
		t.Fatal(err)
	}
	c.want(c.do("GET", "/v2/a/manifests/x", nil), 404, codeManifestUnknown)
	c.tagged("a", "x")
	c.want(c.do("GET", "/v2/a/manifests/x", nil), 200, "")
}

// TestPushAndDeleteTogether: whatever was last, a tag that is listed can be pulled, and
// what a manifest refers to is there.
func TestPushAndDeleteTogether(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	b := string(encode(t, m))
	d := digest.FromString(b).String()
	blob := "/v2/a/blobs/" + m.Layers[0].Digest.String()
	var wg sync.WaitGroup
	check := func(a answer, err error, allowed ...int) {
		if err != nil || !slices.Contains(allowed, a.status) {
			t.Errorf("got %d %s (%v), want one of %v", a.status, a.body, err, allowed)
		}
	}
	for i := range 8 {
		wg.Go(func() {
			for n := range 30 {
				switch (i + n) % 4 {
				case 0:
					a, err := c.try("DELETE", "/v2/a/manifests/"+d, nil)
					check(a, err, 202, 404)
				case 1:
					a, err := c.try("DELETE", blob, nil)
					check(a, err, 202, 404)
					a, err = c.try("POST", "/v2/a/blobs/uploads/?digest="+m.Layers[0].Digest.String(), strings.NewReader("layer"))
					check(a, err, 201)
				default:
					a, err := c.try("PUT", fmt.Sprintf("/v2/a/manifests/t%d", i), strings.NewReader(b), "Content-Type", m.MediaType)
					check(a, err, 201, 404) // 404: the blob had just been deleted
				}
			}
		})
	}
	wg.Wait()
	c.want(c.do("GET", blob, nil), 200, "")
	for _, tag := range tagsOf(c, "a", "") {
		c.want(c.do("GET", "/v2/a/manifests/"+tag, nil), 200, "")
		c.want(c.do("GET", "/v2/a/manifests/"+d, nil), 200, "")
	}
	c.want(c.do("PUT", "/v2/a/manifests/"+d, strings.NewReader(b), "Content-Type", m.MediaType), 201, "")
	c.want(c.do("DELETE", "/v2/a/manifests/"+d, nil), 202, "")
	if got := tagsOf(c, "a", ""); len(got) != 0 {
		t.Errorf("tags %v outlived their manifest", got)
	}
}
