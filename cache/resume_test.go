package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
)

// bePuller pulls an image of the registry in the environment.
func bePuller(s *Store) error {
	ctx := context.Background()
	ref, err := reference.ParseNormalizedNamed(os.Getenv("TEU_TEST_REGISTRY") + "/image")
	if err != nil {
		return err
	}
	repo, err := registry.New(registry.Options{}).Repository(ref)
	if err != nil {
		return err
	}
	unpin, err := s.Pin(ctx)
	if err != nil {
		return err
	}
	root, err := repo.Resolve(ctx, "latest")
	if err == nil {
		_, err = s.Pull(ctx, repo, root, PullOptions{})
	}
	return errors.Join(err, unpin())
}

// counting is a registry of one image that counts what it is asked for.
type counting struct {
	*httptest.Server
	src  *memory
	root ocispec.Descriptor
	gate func(*http.Request) // called before each answer

	mu       sync.Mutex
	cut      int64                   // send only so much of the layers, then nothing more; 0: all
	requests map[digest.Digest]int   // GETs of blobs
	sent     map[digest.Digest]int64 // bytes of blobs
}

func serveCounting(t *testing.T, src *memory, root ocispec.Descriptor, gate func(*http.Request)) *counting {
	c := &counting{src: src, root: root, gate: gate}
	c.forget(0)
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// forget begins to count anew and sends only cut bytes of each blob.
func (c *counting) forget(cut int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests, c.sent, c.cut = map[digest.Digest]int{}, map[digest.Digest]int64{}, cut
}

// counts returns the requests and the bytes of each blob.
func (c *counting) counts() (map[digest.Digest]int, map[digest.Digest]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.requests), maps.Clone(c.sent)
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.gate(r)
	d := digest.Digest(path.Base(r.URL.Path))
	if strings.Contains(r.URL.Path, "/manifests/") {
		d = c.root.Digest
		w.Header().Set("Content-Type", c.root.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	c.src.mu.Lock()
	data, ok := c.src.blobs[d]
	c.src.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodGet {
		c.mu.Lock()
		c.requests[d]++
		w = &countingWriter{ResponseWriter: w, c: c, d: d, r: r}
		c.mu.Unlock()
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

type countingWriter struct {
	http.ResponseWriter
	c *counting
	d digest.Digest
	r *http.Request
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	cut, sent := w.c.cut, w.c.sent[w.d]
	if cut > 0 {
		p = p[:min(int64(len(p)), cut-sent)]
	}
	w.c.sent[w.d] += int64(len(p))
	w.c.mu.Unlock()
	n, err := w.ResponseWriter.Write(p)
	if cut > 0 && sent+int64(n) == cut {
		w.ResponseWriter.(http.Flusher).Flush()
		<-w.r.Context().Done()
		return n, io.ErrShortWrite
	}
	return n, err
}

// noise is an image with one layer of size bytes that do not compress.
func noise(size int) (*memory, ocispec.Descriptor, ocispec.Descriptor, string) {
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	src := newMemory()
	root, layers := src.image(content.Host(), tarOf("noise", string(data)))
	return src, root, layers[0], string(data)
}

func startPuller(t *testing.T, dir string, c *counting) *exec.Cmd {
	t.Helper()
	t.Setenv("TEU_TEST_REGISTRY", strings.TrimPrefix(c.URL, "http://"))
	return start(t, "puller", dir, 0, nil)
}

// expectPulled looks at the image in the store of dir.
func expectPulled(t *testing.T, dir string, root ocispec.Descriptor, want string) {
	t.Helper()
	s, err := Open(dir+"/root", dir+"/run")
	if err != nil {
		t.Fatal(err)
	}
	img, err := content.Resolve(t.Context(), s.Content, root, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if got := readLayers(t, s, ids); got != "noise="+want {
		t.Errorf("the layer holds %d other bytes", len(got))
	}
	if left := partials(t, dir); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

// partials returns the sizes of what is half written.
func partials(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	entries, err := os.ReadDir(dir + "/root/content/ingest")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			sizes[e.Name()] = fi.Size()
		}
	}
	return sizes
}

func TestPullGoesOnWhereAKilledOneStopped(t *testing.T) {
	const size, cut = 8 << 20, 5 << 20
	src, root, blob, data := noise(size)
	c, dir := serveCounting(t, src, root, func(*http.Request) {}), t.TempDir()
	name := "p-sha256-" + blob.Digest.Encoded()
	c.forget(cut)
	u := startPuller(t, dir, c)
	// The server sends no more than cut, so this ends when all of it has arrived.
	for late := time.Now().Add(time.Minute); partials(t, dir)[name] < cut; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			u.Process.Kill()
			t.Fatalf("after a minute the pull has %d bytes of %d: %v", partials(t, dir)[name], cut, u.Wait())
		}
	}
	if err := u.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := u.Wait(); err == nil || u.ProcessState.Exited() {
		t.Fatalf("the pull ended before it was killed: %v", err)
	}
	if got := partials(t, dir)[name]; got != cut {
		t.Fatalf("the killed pull left %d bytes, want %d", got, cut)
	}
	c.forget(0)
	if err := startPuller(t, dir, c).Wait(); err != nil {
		t.Fatal(err)
	}
	requests, sent := c.counts()
	if got := sent[blob.Digest]; got != blob.Size-cut {
		t.Errorf("%d bytes were fetched after the kill, want the missing %d", got, blob.Size-cut)
	}
	for d, n := range requests {
		if d != blob.Digest {
			t.Errorf("%s, which the killed pull had stored, was fetched %d times", d, n)
		}
	}
	expectPulled(t, dir, root, data)
}

func TestTwoPullsFetchEachBlobOnce(t *testing.T) {
	src, root, blob, data := noise(4 << 20)
	// No layer is sent before both have asked what the tag stands for.
	var both sync.WaitGroup
	both.Add(2)
	c, dir := serveCounting(t, src, root, func(r *http.Request) {
		switch {
		case r.Method == http.MethodHead:
			both.Done()
		case strings.HasSuffix(r.URL.Path, blob.Digest.String()):
			both.Wait()
		}
	}), t.TempDir()
	pulls := []*exec.Cmd{startPuller(t, dir, c), startPuller(t, dir, c)}
	for _, p := range pulls {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
	requests, _ := c.counts()
	if len(requests) != 3 {
		t.Errorf("%d blobs were fetched, want a manifest, a config and a layer", len(requests))
	}
	for d, n := range requests {
		if n != 1 {
			t.Errorf("%s was fetched %d times", d, n)
		}
	}
	expectPulled(t, dir, root, data)
}

// ranges is a memory that can begin within a blob.
type ranges struct {
	*memory
	offsets []int64
}

func (r *ranges) FetchFrom(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offsets = append(r.offsets, offset)
	return io.NopCloser(bytes.NewReader(r.blobs[d.Digest][offset:])), nil
}

func TestPullWithASpoiltBeginning(t *testing.T) {
	src, root, blob, _ := noise(1 << 20)
	good := src.blobs[blob.Digest]
	wrong := bytes.Clone(good[:300_000])
	wrong[200_000]++
	for name, test := range map[string]struct {
		begin []byte
		want  []int64
	}{
		"wrong byte":    {wrong, []int64{300_000, 0}},
		"zeros":         {make([]byte, 300_000), []int64{300_000, 0}},
		"too long":      {make([]byte, blob.Size+1), []int64{0}},
		"all, right":    {good, []int64{blob.Size}},
		"all but wrong": {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]+1), []int64{blob.Size, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s, from := openStore(t), &ranges{memory: src}
			defer hold(t, s)()
			begin(t, s, blob, test.begin)
			if _, err := s.Pull(t.Context(), from, root, PullOptions{}); err != nil {
				t.Fatal(err)
			}
			if len(from.offsets) != len(test.want) || from.offsets[0] != test.want[0] {
				t.Errorf("fetched from %v, want %v", from.offsets, test.want)
			}
		})
	}
}

// slow gives up the first layer in its middle, as one does whose source keeps others waiting.
type slow struct{ *ranges }

func (s *slow) FetchFrom(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	r, err := s.ranges.FetchFrom(ctx, d, offset)
	if err != nil || len(s.offsets) > 1 {
		return r, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(r, 300_000), iotest.ErrReader(errSlow))), nil
}

func TestSlowLayerIsStoredFirst(t *testing.T) {
	src, root, _, _ := noise(1 << 20)
	s, from := openStore(t), &slow{&ranges{memory: src}}
	defer hold(t, s)()
	if _, err := s.Pull(t.Context(), from, root, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if want := []int64{0, 300_000}; !slices.Equal(from.offsets, want) {
		t.Errorf("fetched from %v, want %v", from.offsets, want)
	}
}

// begin leaves data as the beginning of d.
func begin(t *testing.T, s *Store, d ocispec.Descriptor, data []byte) {
	t.Helper()
	name := s.path("content", "ingest", "p-sha256-"+d.Digest.Encoded())
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPullOfWrongBytesLeavesNothing(t *testing.T) {
	src, root, blob, _ := noise(1 << 20)
	src.blobs[blob.Digest] = append(bytes.Clone(src.blobs[blob.Digest][:500_000]), make([]byte, blob.Size-500_000)...)
	s, from := openStore(t), &ranges{memory: src}
	defer hold(t, s)()
	begin(t, s, blob, src.blobs[blob.Digest][:100_000])
	if _, err := s.Pull(t.Context(), from, root, PullOptions{}); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v, want a data loss", err)
	}
	if left, err := os.ReadDir(s.path("content", "ingest")); err != nil || len(left) > 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
}
