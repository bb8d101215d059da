package registry

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	upstream "github.com/teu-dev/teu/registry"
)

// upstreamServer is a registry to mirror, which can be switched off and counts blobs sent.
type upstreamServer struct {
	*client
	host   string
	status atomic.Int32  // what to answer instead, 0: the truth
	hold   chan struct{} // blobs are sent to their half until it is closed
	blobs  atomic.Int32
}

func newUpstream(t *testing.T) *upstreamServer {
	g, err := New(Options{Root: t.TempDir(), AllowDelete: true})
	if err != nil {
		t.Fatal(err)
	}
	u := &upstreamServer{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := u.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		if r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			u.blobs.Add(1)
			if u.hold != nil {
				w = &heldWriter{ResponseWriter: w, hold: u.hold}
			}
		}
		g.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	u.client = &client{t, srv.URL, srv.Client()}
	u.host = strings.TrimPrefix(srv.URL, "http://")
	return u
}

// heldWriter sends some bytes, and the rest when hold is closed.
type heldWriter struct {
	http.ResponseWriter
	hold chan struct{}
	sent int
}

func (w *heldWriter) Write(b []byte) (int, error) {
	if w.sent > 0 || len(b) < 2 {
		<-w.hold
		n, err := w.ResponseWriter.Write(b)
		w.sent += n
		return n, err
	}
	half := len(b) / 2
	n, err := w.ResponseWriter.Write(b[:half])
	w.sent += n
	if err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	if err != nil {
		return n, err
	}
	<-w.hold
	k, err := w.ResponseWriter.Write(b[half:])
	return n + k, err
}

// mirrorOf serves a mirror of u below hub/, which asks it for every tag.
func mirrorOf(t *testing.T, u *upstreamServer) (*client, *mirrors) {
	t.Helper()
	o := testStorage(t)
	c := upstream.New(upstream.Options{HostDirs: []string{}})
	o.Mirrors = []Mirror{{Prefix: "hub", Registry: u.host, TTL: 1}}
	o.OpenUpstream = func(name, repo string) (Upstream, error) {
		ref, err := reference.ParseNormalizedNamed(name + "/" + repo)
		if err != nil {
			return nil, err
		}
		return c.Repository(ref)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := g.store.(*mirrors)
	s.patience, s.rest = time.Minute, time.Hour
	return serveRegistry(t, g), s
}

// TestMirrorTemp: what is downloaded waits beside the blobs, not where the machine may have memory
// for a disk.
func TestMirrorTemp(t *testing.T) {
	u := newUpstream(t)
	c, _ := mirrorOf(t, u)
	u.tagged("library/app", "v1")
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "full"))
	a := c.want(c.do("GET", "/v2/hub/library/app/blobs/"+digest.FromString("layer of v1").String(), nil), 200, "")
	if string(a.body) != "layer of v1" {
		t.Errorf("got %q", a.body)
	}
}

// TestMirror: what the upstream has is here, once it was asked for also when the upstream is
// gone, and then with a word about it.
func TestMirror(t *testing.T) {
	u := newUpstream(t)
	c, s := mirrorOf(t, u)
	d := u.tagged("library/app", "v1")
	layer := digest.FromString("layer of v1").String()
	pull := func(tag string) answer {
		t.Helper()
		a := c.want(c.do("GET", "/v2/hub/library/app/manifests/"+tag, nil), 200, "")
		if got := a.header.Get("Docker-Content-Digest"); got != digest.FromBytes(a.body).String() {
			t.Errorf("got digest %s", got)
		}
		return a
	}
	c.want(c.do("HEAD", "/v2/hub/library/app/blobs/"+layer, nil), 200, "")
	if u.blobs.Load() != 0 {
		t.Error("HEAD fetched the blob")
	}
	if a := pull("v1"); a.header.Get("Docker-Content-Digest") != d.Digest.String() || a.header.Get("Warning") != "" {
		t.Errorf("got %v", a.header)
	}
	for range 2 {
		if a := c.want(c.do("GET", "/v2/hub/library/app/blobs/"+layer, nil), 200, ""); string(a.body) != "layer of v1" {
			t.Errorf("got %q", a.body)
		}
		c.settled("hub/library/app", layer)
	}
	if n := u.blobs.Load(); n != 1 {
		t.Errorf("the upstream sent %d blobs, want 1", n)
	}
	if a := c.want(c.do("GET", "/v2/library/app/manifests/v1?ns="+u.host, nil), 200, ""); a.header.Get("OCI-Namespace") != u.host {
		t.Errorf("got OCI-Namespace %q", a.header.Get("OCI-Namespace"))
	}
	c.want(c.do("GET", "/v2/library/app/manifests/v1?ns=other.example", nil), 404, codeNameUnknown)
	c.want(c.do("GET", "/v2/library/app/manifests/v1", nil), 404, codeManifestUnknown)
	if got := tagsOf(c, "hub/library/app", ""); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("got tags %v", got)
	}

	moved := u.put("library/app", "v1", u.image("library/app", "c", "other"))
	if a := pull("v1"); a.header.Get("Docker-Content-Digest") != moved.Digest.String() {
		t.Error("the tag did not move")
	}
	goOn := func() { // it was left alone for long enough
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.down)
	}
	for _, status := range []int32{500, 429} {
		goOn()
		u.status.Store(status)
		s.patience = 200 * time.Millisecond // in which an error is asked about again
		if a := pull("v1"); !strings.HasPrefix(a.header.Get("Warning"), `299 - "stale`) {
			t.Errorf("%d: got Warning %q", status, a.header.Get("Warning"))
		}
		if a := pull(d.Digest.String()); a.header.Get("Warning") != "" {
			t.Errorf("%d: a digest is stale: %q", status, a.header.Get("Warning"))
		}
		if got := tagsOf(c, "hub/library/app", ""); !slices.Equal(got, []string{"v1"}) {
			t.Errorf("%d: got tags %v", status, got)
		}
	}
	s.patience = time.Minute
	u.status.Store(401)
	c.want(c.do("GET", "/v2/hub/library/none/manifests/v1", nil), 404, codeManifestUnknown)
	u.status.Store(0)
	if a := pull("v1"); a.header.Get("Warning") == "" {
		t.Error("the upstream was not left alone")
	}
	goOn()
	if a := pull("v1"); a.header.Get("Warning") != "" {
		t.Error("the upstream is left alone for ever")
	}
	u.want(u.do("DELETE", "/v2/library/app/manifests/v1", nil), 202, "")
	c.want(c.do("GET", "/v2/hub/library/app/manifests/v1", nil), 404, codeManifestUnknown)
	c.want(c.do("POST", "/v2/hub/library/app/blobs/uploads/", nil), 405, codeUnsupported)
	c.want(c.do("POST", "/v2/hub/library/app/blobs/uploads/?mount="+layer, nil), 405, codeUnsupported)
	c.tagged("own/app", "v1")
}

// keepless is a storage that cannot take manifests.
type keepless struct {
	storage
	full bool
}

func (s *keepless) PutManifest(ctx context.Context, repo string, m manifest, tags []string) error {
	if s.full {
		return unix.ENOSPC
	}
	return s.storage.PutManifest(ctx, repo, m, tags)
}

// TestMirrorFull: that a manifest cannot be kept is no fault of the upstream, which is asked again at once.
func TestMirrorFull(t *testing.T) {
	u := newUpstream(t)
	c, s := mirrorOf(t, u)
	disk := &keepless{storage: s.storage}
	s.storage = disk
	u.tagged("app", "v1")
	c.want(c.do("GET", "/v2/hub/app/manifests/v1", nil), 200, "")
	moved := u.put("app", "v1", u.image("app", "c", "other"))
	disk.full = true
	c.want(c.do("GET", "/v2/hub/app/manifests/none", nil), 404, codeManifestUnknown)
	a := c.want(c.do("GET", "/v2/hub/app/manifests/v1", nil), 200, "")
	if got := a.header.Get("Warning"); !strings.Contains(got, "cannot be kept") || strings.Contains(string(a.body), "other") {
		t.Errorf("got Warning %q", got)
	}
	u.tagged("app", "v2")
	c.want(c.do("GET", "/v2/hub/app/manifests/v2", nil), 507, codeUnknown)
	disk.full = false
	if a := c.want(c.do("GET", "/v2/hub/app/manifests/v1", nil), 200, ""); a.header.Get("Docker-Content-Digest") != moved.Digest.String() || a.header.Get("Warning") != "" {
		t.Errorf("got %v", a.header)
	}
}

// settled waits until a blob that was read along is kept.
func (c *client) settled(repo, d string) {
	c.t.Helper()
	for range 1000 {
		if a := c.do("GET", "/v2/"+repo+"/blobs/"+d, nil, "Range", "bytes=0-0"); a.status == 206 {
			return
		}
	}
	c.t.Fatal("the blob is not kept")
}

// TestMirrorBlobThatCameMeanwhile: who looked for a blob before it was kept, and reads it after, costs the upstream nothing.
func TestMirrorBlobThatCameMeanwhile(t *testing.T) {
	u := newUpstream(t)
	d := u.blob("app", []byte("text")).Digest
	c, s := mirrorOf(t, u)
	var readers [2]io.ReadSeekCloser
	for i := range readers {
		var err error
		if readers[i], err = s.OpenBlob(t.Context(), "hub/app", d); err != nil {
			t.Fatal(err)
		}
		defer readers[i].Close()
	}
	for _, r := range readers {
		if b, err := io.ReadAll(r); string(b) != "text" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		c.settled("hub/app", d.String())
		time.Sleep(10 * time.Millisecond) // the download ends after the blob is kept
	}
	if n := u.blobs.Load(); n != 1 {
		t.Errorf("the upstream sent %d blobs, want 1", n)
	}
}

// TestMirrorTogether: many clients who want one blob at once cost the upstream one, and get
// what has come before the rest has.
func TestMirrorTogether(t *testing.T) {
	u := newUpstream(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	d := u.blob("app", body).Digest.String()
	u.hold = make(chan struct{})
	c, _ := mirrorOf(t, u)
	const readers = 20
	var began, work sync.WaitGroup
	began.Add(readers)
	for range readers {
		work.Go(func() {
			resp, err := http.Get(c.base + "/v2/hub/app/blobs/" + d)
			if err != nil {
				t.Error(err)
				began.Done()
				return
			}
			defer resp.Body.Close()
			var first [1]byte
			_, err = io.ReadFull(resp.Body, first[:])
			began.Done()
			if err != nil {
				t.Error(err)
				return
			}
			rest, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(append(first[:], rest...), body) {
				t.Errorf("got %d bytes (%v)", len(rest)+1, err)
			}
		})
	}
	began.Wait() // everybody has a byte, the upstream has sent half of it at most
	close(u.hold)
	work.Wait()
	if n := u.blobs.Load(); n != 1 {
		t.Errorf("the upstream sent %d blobs, want 1", n)
	}
}

// TestMirrorRefuses: mirrors that contradict each other or are none, and an upstream that is
// not there.
func TestMirrorRefuses(t *testing.T) {
	for name, list := range map[string][]Mirror{
		"two at one place": {{Prefix: "a", Registry: "x"}, {Prefix: "a", Registry: "y"}},
		"no registry":      {{Prefix: "a"}}, "no prefix": {{Prefix: "A/", Registry: "x"}},
	} {
		if _, err := New(Options{Root: t.TempDir(), Mirrors: list}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstreamServer{host: ln.Addr().String()}
	ln.Close()
	c, _ := mirrorOf(t, u)
	c.want(c.do("GET", "/v2/hub/app/manifests/v1", nil), 503, codeUnknown)

	// The ID of an upload can be made up.
	d := digest.FromString("x").String()
	id := strings.Repeat("0", 31) + "2" + repoMark("hub/app")
	for _, method := range []string{"PUT", "PATCH", "GET", "DELETE"} {
		c.want(c.do(method, "/v2/hub/app/blobs/uploads/"+id+"?digest="+d, strings.NewReader("x")), 405, codeUnsupported)
	}
	c.want(c.do("POST", "/v2/hub/app/blobs/uploads/?digest="+d, strings.NewReader("x")), 405, codeUnsupported)
}
