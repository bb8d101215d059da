package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serveDirectory is serve, with the storage behind it.
func serveDirectory(t *testing.T) (*client, *directory) {
	t.Helper()
	root := t.TempDir()
	s, err := openDirectory(root, false)
	if err != nil {
		t.Fatal(err)
	}
	return serveOptions(t, Options{Root: root, AllowDelete: true}), s
}

// collectAll collects what is garbage now, without any grace.
func collectAll(t *testing.T, s *directory, o GCOptions) GCReport {
	t.Helper()
	c := s.newCollector(o)
	c.cut = time.Now().Add(time.Hour)
	if err := c.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.report
}

func (c *client) has(repo string, d digest.Digest) bool {
	c.t.Helper()
	return c.do("GET", "/v2/"+repo+"/blobs/"+d.String(), nil).status == 200
}

func TestGC(t *testing.T) {
	c, s := serveDirectory(t)
	c.tagged("a", "kept")
	c.tagged("a/b", "kept")
	lost := c.tagged("a", "lost")
	alone := c.blob("only/blobs", []byte("alone"))
	shared := c.blob("b", []byte("shared"))
	c.put("a", "mounted", ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c.blob("a", []byte("shared"))})
	c.want(c.do("DELETE", "/v2/a/manifests/"+lost.Digest.String(), nil), 202, "")

	size := int64(len("config of lost") + len("layer of lost") + len("alone"))
	want := GCReport{Repositories: 4, Manifests: 3, Blobs: 9, RemovedLinks: 4, RemovedBlobs: 3, Bytes: size}
	if got := collectAll(t, s, GCOptions{DryRun: true}); got != want {
		t.Errorf("dry run: got %+v, want %+v", got, want)
	}
	if !c.has("only/blobs", alone.Digest) {
		t.Error("a dry run removed a blob")
	}
	if got := collectAll(t, s, GCOptions{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, text := range []string{"config of kept", "layer of kept", "shared"} {
		if !c.has("a", digest.FromString(text)) {
			t.Errorf("%s is gone", text)
		}
	}
	if c.has("only/blobs", alone.Digest) || c.has("a", digest.FromString("layer of lost")) || c.has("b", shared.Digest) {
		t.Error("garbage is still there")
	}
	checkTree(t, s.root)
	if got := collectAll(t, s, GCOptions{}); got.RemovedLinks+got.RemovedBlobs != 0 {
		t.Errorf("there was more: %+v", got)
	}
	c.tagged("only/blobs", "again") // what was collected can be pushed to
}

// TestGCForeignLayers: a layer that may not be distributed but was is no garbage.
func TestGCForeignLayers(t *testing.T) {
	c, s := serveDirectory(t)
	m := c.image("a", "config", "layer")
	m.Layers[0].MediaType = dockerForeign
	c.put("a", "t", m)
	collectAll(t, s, GCOptions{})
	if !c.has("a", m.Layers[0].Digest) {
		t.Error("it is gone")
	}
}

// TestGCGrace: what is fresh, or was confirmed in any of the ways there are, stays.
func TestGCGrace(t *testing.T) {
	c, s := serveDirectory(t)
	text := []byte("x")
	d := c.blob("a", text).Digest
	c.blob("from", text)
	confirm := map[string]func(){
		"HEAD":       func() { c.want(c.do("HEAD", "/v2/a/blobs/"+d.String(), nil), 200, "") },
		"push":       func() { c.blob("a", text) },
		"mount":      func() { c.want(c.do("POST", "/v2/a/blobs/uploads/?mount="+d.String(), nil), 201, "") },
		"mount from": func() { c.want(c.do("POST", "/v2/a/blobs/uploads/?mount="+d.String()+"&from=from", nil), 201, "") },
		"manifest": func() {
			c.put("a", "t", ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{Digest: d}})
		},
	}
	for name, f := range confirm {
		time.Sleep(touchAfter + 20*time.Millisecond)
		collector := s.newCollector(GCOptions{})
		collector.cut = time.Now().Add(-10 * time.Millisecond)
		path := s.repoBlobPath("a", d)
		if st, err := lstat(path); err != nil || !changed(&st).Before(collector.cut) {
			t.Fatalf("%s: it was fresh before (%v)", name, err)
		}
		if err := collector.barrier(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		f()
		// The marking saw nothing of it: only the batch can find out.
		err := collector.unlinkBlobs(t.Context(), "a", s.repo("a")+"/_blobs/sha256", []string{d.Encoded()})
		if err != nil || collector.report.Fresh != 1 || !c.has("a", d) {
			t.Errorf("%s: %v, %+v", name, err, collector.report)
		}
	}
	if _, err := s.Collect(t.Context(), GCOptions{Grace: MinGrace / 2}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v for a grace that protects nobody", err)
	}
}

// TestGCUntagged: only what no tag, index or subject leads to, and with Untagged.
func TestGCUntagged(t *testing.T) {
	c, s := serveDirectory(t)
	push := func(name string, subject *ocispec.Descriptor) ocispec.Descriptor {
		m := c.image("a", "config of "+name, "layer of "+name)
		m.Subject = subject
		return c.put("a", digest.FromBytes(encode(t, m)).String(), m)
	}
	index := func(ref string, children ...ocispec.Descriptor) ocispec.Descriptor {
		i := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children}
		i.SchemaVersion = 2
		if ref == "" {
			ref = digest.FromBytes(encode(t, i)).String()
		}
		return c.put("a", ref, i)
	}
	child, inner := push("child", nil), push("inner", nil)
	top := index("tagged", child, index("", inner))
	signature := push("signature", &top)
	lostChild := push("lost child", nil)
	lost := index("", lostChild)
	lostSignature := push("lost signature", &lost)

	if got := collectAll(t, s, GCOptions{}); got.RemovedManifests+got.RemovedLinks != 0 {
		t.Errorf("without Untagged: %+v", got)
	}
	got := collectAll(t, s, GCOptions{Untagged: true})
	if got.RemovedManifests != 3 || got.RemovedBlobs != 4 {
		t.Errorf("got %+v, want 3 manifests and 4 blobs removed", got)
	}
	for _, d := range []ocispec.Descriptor{child, inner, top, signature} {
		c.want(c.do("GET", "/v2/a/manifests/"+d.Digest.String(), nil), 200, "")
	}
	for _, d := range []ocispec.Descriptor{lost, lostChild, lostSignature} {
		c.want(c.do("GET", "/v2/a/manifests/"+d.Digest.String(), nil), 404, codeManifestUnknown)
	}
	checkTree(t, s.root)
}

// TestGCUntaggedTaken: an index that is taken into use after the marking keeps what it
// leads to, although nobody touched that.
func TestGCUntaggedTaken(t *testing.T) {
	c, s := serveDirectory(t)
	m := c.image("a", "config", "layer")
	child := c.put("a", digest.FromBytes(encode(t, m)).String(), m)
	i := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}}
	path := "/v2/a/manifests/" + c.put("a", digest.FromBytes(encode(t, i)).String(), i).Digest.String()
	time.Sleep(touchAfter + 20*time.Millisecond)
	collector := s.newCollector(GCOptions{Untagged: true})
	collector.cut = time.Now().Add(-10 * time.Millisecond)
	g, err := collector.graph(t.Context(), "a")
	if err != nil || len(g.garbage()) != 2 {
		t.Fatalf("got %v (%v), want two manifests that could go", g, err)
	}
	c.want(c.do("HEAD", path, nil), 200, "")
	if err := collector.unlinkManifests(t.Context(), "a", g, g.garbage()); err != nil {
		t.Fatal(err)
	}
	c.want(c.do("GET", path, nil), 200, "")
	c.want(c.do("GET", "/v2/a/manifests/"+child.Digest.String(), nil), 200, "")
}

// TestGCBrokenManifest: who cannot read a manifest does not know what is garbage, there.
func TestGCBrokenManifest(t *testing.T) {
	c, s := serveDirectory(t)
	kept, lost := c.blob("a", []byte("kept")), c.blob("b", []byte("lost"))
	broken := c.tagged("a", "t")
	path := s.recordPath("a", broken.Digest)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	layer := digest.FromString("layer of t")
	for _, bytes := range []string{"manifest ", strings.Replace(string(good), layer.Encoded()[:4], "0000", 1)} {
		if err := os.WriteFile(path, []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, untagged := range []bool{false, true} {
			collector := s.newCollector(GCOptions{Untagged: untagged})
			collector.cut = time.Now().Add(time.Hour)
			if err := collector.run(t.Context()); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "repository a") {
				t.Errorf("got %v", err)
			}
		}
		if !c.has("a", kept.Digest) || !c.has("a", layer) || c.has("b", lost.Digest) {
			t.Error("what is in a should be kept, and the garbage of b removed")
		}
	}
}

// TestGCIncremental: a repository that did not change is not read again, one that did is.
func TestGCIncremental(t *testing.T) {
	c, s := serveDirectory(t)
	m := c.tagged("a", "t")
	time.Sleep(settled + 50*time.Millisecond)
	collectAll(t, s, GCOptions{})
	if got := collectAll(t, s, GCOptions{}); got.Unchanged != 1 || got.Manifests != 0 {
		t.Errorf("got %+v, want it to be left alone", got)
	}
	c.want(c.do("DELETE", "/v2/a/manifests/"+m.Digest.String(), nil), 202, "")
	if got := collectAll(t, s, GCOptions{}); got.RemovedBlobs != 2 {
		t.Errorf("got %+v, want 2 blobs removed", got)
	}
}

// TestGCAlone: one collection at a time, and not where there is no registry.
func TestGCAlone(t *testing.T) {
	_, s := serveDirectory(t)
	unlock, err := s.lockGC()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := GC(t.Context(), Options{Root: s.root}, GCOptions{}); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v while another one runs", err)
	}
	unlock()
	if _, err := GC(t.Context(), Options{Root: s.root}, GCOptions{}); err != nil || time.Since(s.LastCollection()) > time.Minute {
		t.Errorf("got %v, and the last one at %v", err, s.LastCollection())
	}
	if _, err := GC(t.Context(), Options{Root: t.TempDir()}, GCOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v without a registry", err)
	}
}

// TestMaintainCollects: servers of one directory collect in turn, one in each interval.
func TestMaintainCollects(t *testing.T) {
	root := t.TempDir()
	var servers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	logs := &syncBuffer{}
	o := Options{Root: root, Anonymous: true, GCInterval: time.Hour, GC: GCOptions{Grace: MinGrace}, Log: slog.New(slog.NewTextHandler(logs, nil))}
	c := serveOptions(t, o)
	d := c.blob("a", []byte("garbage")).Digest
	time.Sleep(MinGrace + 100*time.Millisecond)
	for range 3 {
		g, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		servers.Go(func() { g.Maintain(ctx) })
	}
	for c.has("a", d) || !strings.Contains(logs.String(), "collected garbage") {
		time.Sleep(10 * time.Millisecond) // until go test loses patience
	}
	stop()
	servers.Wait()
	if n := strings.Count(logs.String(), "collected garbage"); n != 1 || strings.Contains(logs.String(), "ERROR") {
		t.Errorf("got %d collections\n%s", n, logs.String())
	}
}

// syncBuffer is a buffer that may be written to and read at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// BenchmarkGC looks at a repository of 20,000 blobs with their manifests; b.N times.
func BenchmarkGC(b *testing.B) {
	s, err := openDirectory(b.TempDir(), false)
	if err != nil {
		b.Fatal(err)
	}
	s.sync.fsync = func(string) error { return nil } // only the making of it would be slow
	const images, layers = 2000, 10
	for i := range images {
		var m ocispec.Manifest
		m.MediaType = ocispec.MediaTypeImageManifest
		m.SchemaVersion = 2
		for l := range layers {
			d := digest.FromString(fmt.Sprint(i, l))
			target := s.repoBlobPath("a", d)
			if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o700), os.WriteFile(target, nil, 0o600), s.shareBlob(target, s.blobPath(d), 0)); err != nil {
				b.Fatal(err)
			}
			m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: 1})
		}
		m.Config = m.Layers[0]
		body := encode(b, m)
		path := s.recordPath("a", digest.FromBytes(body))
		record := append(encodeHeader(digest.FromBytes(body), m.MediaType, false), body...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, record, 0o600)); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		s.clean = cleanList{}
		r, err := s.Collect(b.Context(), GCOptions{})
		if err != nil || r.Manifests != images || r.Blobs != images*layers || r.RemovedLinks != 0 {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	b.ReportMetric(float64(b.N*images*layers)/b.Elapsed().Seconds(), "blobs/s")
}
