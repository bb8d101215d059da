package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// faultyS3 passes requests on to an S3 server and answers some as if they had failed, although
// they were done.
type faultyS3 struct {
	url string // of the bucket

	mu     sync.Mutex
	method string // "" for no fault
	part   string // of the path
	status int
	times  int // how often yet
}

func startFaultyS3(t *testing.T) *faultyS3 {
	t.Helper()
	behind, err := url.Parse(startS3(t))
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyS3{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", behind.Host }, // the Host is signed
		ModifyResponse: func(resp *http.Response) error {
			if status := f.fault(resp.Request); status != 0 {
				resp.Body.Close()
				resp.StatusCode, resp.Status = status, http.StatusText(status)
				resp.Body, resp.ContentLength = http.NoBody, 0
				resp.Header = http.Header{"Content-Length": {"0"}}
			}
			return nil
		},
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	f.url = s.URL + behind.Path
	return f
}

// fail makes the next requests fail that have the method and part of a path. 507 is not tried
// again by the client library, 500 is.
func (f *faultyS3) fail(method, part string, status, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.method, f.part, f.status, f.times = method, part, status, times
}

func (f *faultyS3) fault(r *http.Request) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.times == 0 || r.Method != f.method || !strings.Contains(r.URL.Path+"?"+r.URL.RawQuery, f.part) {
		return 0
	}
	f.times--
	return f.status
}

// hit tells whether all faults have happened.
func (f *faultyS3) hit(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.times > 0 {
		t.Errorf("no %s of %s failed", f.method, f.part)
	}
}

// TestBucketUploadAgain: an upload whose end was answered by an error, though it had been done, can
// be ended with the same bytes, and with others it does not touch what is there.
func TestBucketUploadAgain(t *testing.T) {
	f := startFaultyS3(t)
	b := openTestBucket(t, f.url)
	c := serveBucket(t, b)
	first, other := []byte("the first bytes"), []byte("other bytes")
	d, wrong := digest.FromBytes(first), digest.FromBytes(other)
	for _, fault := range []string{"/_blobs/", "/data/", "/blobs/sha256/"} {
		t.Run(fault, func(t *testing.T) {
			location := c.start("a")
			f.fail("PUT", fault, 507, 1)
			if a := c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(first)); a.status < 500 {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			f.hit(t)
			a := c.do("PUT", location+"?digest="+wrong.String(), bytes.NewReader(other))
			t.Logf("others: %d %s", a.status, a.body)
			c.want(c.do("PUT", c.start("a")+"?digest="+d.String(), bytes.NewReader(first)), 201, "")
			if a := c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, ""); string(a.body) != string(first) {
				t.Errorf("the blob has become %q", a.body)
			}
			if n, err := b.SweepUploads(t.Context(), time.Now().Add(time.Hour)); err != nil {
				t.Errorf("got %d %v", n, err)
			}
			if a := c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, ""); string(a.body) != string(first) {
				t.Errorf("the blob has become %q", a.body)
			}
			c.want(c.do("DELETE", "/v2/a/blobs/"+d.String(), nil), 202, "")
			for _, key := range []string{blobKey(d), blobKey(wrong)} {
				p, err := b.pointer(t.Context(), key)
				if err == nil {
					err = b.remove(t.Context(), p.data)
				}
				if ignoreNotFound(err) != nil || b.remove(t.Context(), key) != nil {
					t.Fatal(err)
				}
			}
			for e, err := range b.list(t.Context(), "data/", "") {
				t.Errorf("%s is left: %v", e.key, err)
			}
		})
		location := c.start("a")
		f.fail("PUT", fault, 507, 1)
		if a := c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(first)); a.status < 500 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
		c.want(c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(first)), 201, "")
		c.want(c.do("GET", location, nil), 404, codeBlobUploadUnknown)
		if err := b.remove(t.Context(), blobKey(d)); err != nil {
			t.Fatal(err)
		}
		for e := range b.list(t.Context(), "data/", "") {
			if err := b.remove(t.Context(), "data/"+e.key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestBucketUploadTaken: a server that sleeps while another takes its upload over, at whatever
// point, writes nothing over what that one has stored, nor that one over what it has.
func TestBucketUploadTaken(t *testing.T) {
	url := startS3(t)
	one, two := openTestBucket(t, url), openTestBucket(t, url)
	repo, ctx := "a", t.Context()
	first, other := []byte("the first bytes"), []byte("other bytes")
	open := func(b *bucket, id string, body []byte) *bucketUpload {
		t.Helper()
		u, err := b.OpenUpload(ctx, repo, id, digest.FromBytes(body))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.ReadFrom(bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		return u.(*bucketUpload)
	}
	for name, adopted := range map[string]bool{"before the pointer": false, "behind it": true} {
		id, err := one.CreateUpload(ctx, repo, digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		sleeper := open(one, id, first)
		sleeper.lease.end() // it does not renew any more
		d := digest.FromBytes(first)
		if _, err := sleeper.store(); err != nil {
			t.Fatal(err)
		}
		p := pointer{d, sleeper.size, sleeper.state.dataKey(id)}
		if adopted {
			if err := one.adopt(ctx, repo, p); err != nil {
				t.Fatal(err)
			}
		}
		taker := open(two, id, other)
		err = taker.Commit(ctx, digest.FromBytes(other))
		t.Logf("%s: the other got %v", name, err)
		taker.Close()
		if !adopted {
			if err := one.adopt(ctx, repo, p); err != nil {
				t.Fatal(err)
			}
		}
		_ = sleeper.discard()
		sleeper.Close()
		if _, err := two.SweepUploads(ctx, time.Now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
		r, err := one.OpenBlob(ctx, repo, d)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := io.ReadAll(r); string(got) != string(first) {
			t.Errorf("%s: the blob has become %q %v", name, got, err)
		}
		r.Close()
		first = append(first, '2')
	}
}

// TestBucketLargeUpload: the parts of a large upload become a blob once, also when the bucket says
// that it failed; what takes days is not swept.
func TestBucketLargeUpload(t *testing.T) {
	f := startFaultyS3(t)
	b := openTestBucket(t, f.url)
	c := serveBucket(t, b)
	body := bytes.Repeat([]byte("0123456789abcdef"), (partSize+1<<20)/16)
	d := digest.FromBytes(body)
	push := func(location string) {
		t.Helper()
		c.want(c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(body[partSize+100:])), 201, "")
		if a := c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, ""); digest.FromBytes(a.body) != d {
			t.Error("the blob came back different")
		}
		if err := b.remove(t.Context(), blobKey(d)); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() string {
		t.Helper()
		location := c.start("a")
		c.want(c.do("PATCH", location, bytes.NewReader(body[:partSize+100])), 202, "")
		return location
	}
	location := begin()
	if err := b.sweepMultiparts(t.Context(), time.Now().Add(2*uploadLife)); err != nil {
		t.Fatal(err)
	}
	push(location)
	location = begin()
	f.fail("POST", "uploadId=", 500, 1)
	push(location)
	f.hit(t)
	location = begin()
	f.fail("POST", "uploadId=", 507, 1)
	if a := c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(body[partSize+100:])); a.status < 500 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	push(location)
}

// TestBucketSweepTails: the bytes that a killed server left behind an upload go.
func TestBucketSweepTails(t *testing.T) {
	b := openTestBucket(t, startS3(t))
	c := serveBucket(t, b)
	location := c.start("a")
	c.want(c.do("PATCH", location, strings.NewReader("some bytes")), 202, "")
	for _, id := range []string{strings.Repeat("0", 48), strings.Repeat("f", 48)} {
		if err := b.put(t.Context(), uploadKey(id, "tail-"+randomHex()), []byte("tail")); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (n int) {
		for _, err := range b.list(t.Context(), "uploads/", "") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if _, err := b.SweepUploads(t.Context(), time.Now().Add(-time.Hour)); err != nil || left() != 4 {
		t.Errorf("got %v, %d left", err, left())
	}
	if n, err := b.SweepUploads(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 1 || left() != 0 {
		t.Errorf("got %d %v, %d left", n, err, left())
	}
}

// TestBucketLease: a renewal that was done and answered by an error is no other server's.
func TestBucketLease(t *testing.T) {
	f := startFaultyS3(t)
	b := openTestBucket(t, f.url)
	ctx := t.Context()
	id, err := b.CreateUpload(ctx, "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("blob")
	u, err := b.OpenUpload(ctx, "a", id, "")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	f.fail("PUT", "/state", 507, 2)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if l := u.(*bucketUpload).lease; func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.unsure) == 2 }() {
			break
		}
	}
	f.hit(t)
	time.Sleep(b.lease)
	if _, err := u.ReadFrom(strings.NewReader("blob")); err != nil {
		t.Errorf("a chunk: got %v", err)
	}
	end, err := b.OpenUpload(ctx, "a", id, d)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if err := end.Commit(ctx, d); err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := b.OpenUpload(ctx, "a", id, d); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// TestBucketCatalogAfterFault: a repository whose first push was cut short behind the manifest is in
// the catalog once the push was repeated.
func TestBucketCatalogAfterFault(t *testing.T) {
	b := openTestBucket(t, startS3(t))
	c := serveBucket(t, b)
	m := encode(t, c.image("a", "config", "layer"))
	d := digest.FromBytes(m)
	for range 2 {
		if err := b.put(t.Context(), recordKey("a", d), append(encodeHeader(d, "application/vnd.oci.image.manifest.v1+json", false), m...)); err != nil {
			t.Fatal(err)
		}
		c.want(c.do("PUT", "/v2/a/manifests/x", bytes.NewReader(m), "Content-Type", "application/vnd.oci.image.manifest.v1+json"), 201, "")
		if a := c.want(c.do("GET", "/v2/_catalog", nil), 200, ""); !strings.Contains(string(a.body), `"a"`) {
			t.Errorf("got %s", a.body)
		}
	}
}

// TestBucketCatalogKilled: a repository whose last manifest was removed by a server that was killed then is in the catalog
// until the next collection.
func TestBucketCatalogKilled(t *testing.T) {
	b := openTestBucket(t, startS3(t))
	c := serveBucket(t, b)
	gone := c.tagged("a/gone", "x")
	c.tagged("a/stays", "x")
	if _, err := b.untag(t.Context(), "a/gone", gone.Digest); err != nil {
		t.Fatal(err)
	}
	if err := b.drop(t.Context(), recordKey("a/gone", gone.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Collect(t.Context(), GCOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if got := pages(c, "/v2/_catalog"); !slices.Equal(got, []string{"a/gone", "a/stays"}) {
		t.Errorf("got %v", got)
	}
	if _, err := b.Collect(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := pages(c, "/v2/_catalog"); !slices.Equal(got, []string{"a/stays"}) {
		t.Errorf("got %v", got)
	}
}

// TestBucketGCBrokenManifest: who cannot read a manifest, or a tag, does not know what is garbage, there.
func TestBucketGCBrokenManifest(t *testing.T) {
	url := startS3(t)
	c := serveBucket(t, openTestBucket(t, url))
	kept, lost := c.blob("a", []byte("kept")).Digest, c.blob("b", []byte("lost")).Digest
	broken, layer := c.tagged("a", "t").Digest, digest.FromString("layer of t")
	since := moment()
	for name, key := range map[string]string{"manifest": recordKey("a", broken), "tag": tagKey("a", "t")} {
		b := openTestBucket(t, url) // which remembers nothing of manifests
		b.minGrace = 0
		good, err := b.get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for _, bytes := range []string{"manifest ", strings.Replace(string(good.body), broken.Encoded()[:4], "0000", 1), strings.Replace(string(good.body), layer.Encoded()[:4], "0000", 1)} {
			if err := b.put(t.Context(), key, []byte(bytes)); err != nil {
				t.Fatal(err)
			}
			var err error
			for range 50 { // what is known of the bucket's clock may be late
				_, err = b.Collect(t.Context(), GCOptions{Untagged: true, Grace: time.Since(since)})
				if c.do("GET", "/v2/b/blobs/"+lost.String(), nil).status == 404 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "repository a") {
				t.Errorf("%s, %.30q: got %v", name, bytes, err)
			}
		}
		if err := b.put(t.Context(), key, good.body); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []digest.Digest{kept, layer} {
		c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, "")
	}
	c.want(c.do("GET", "/v2/a/manifests/"+broken.String(), nil), 200, "")
	c.want(c.do("GET", "/v2/b/blobs/"+lost.String(), nil), 404, codeBlobUnknown)
}

// TestBucketQuarantineBesidePush: what was pushed again since it was found bad stays, a quarantine
// that was cut short is ended by the next, and a service that does not answer is no bad blob.
func TestBucketQuarantineBesidePush(t *testing.T) {
	f := startFaultyS3(t)
	b := openTestBucket(t, f.url)
	c := serveBucket(t, b)
	ctx := t.Context()
	m := c.image("a", "config", "layer")
	layer := m.Layers[0].Digest
	desc := c.put("a", "x", m)
	c.want(c.do("POST", "/v2/b/blobs/uploads/?mount="+layer.String()+"&from=a", nil), 201, "")

	// Both were healed after somebody had found them bad.
	if _, err := b.quarantineBlob(ctx, layer); err != nil {
		t.Error(err)
	}
	if _, err := b.quarantineManifest(ctx, "a", desc.Digest); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/v2/a/blobs/" + layer.String(), "/v2/b/blobs/" + layer.String(), "/v2/a/manifests/x", "/v2/a/manifests/" + desc.Digest.String()} {
		c.want(c.do("GET", path, nil), 200, "")
	}
	f.fail("GET", "/data/", 507, 1000)
	r, err := Verify(ctx, Options{Bucket: BucketOptions{URL: f.url, Region: "us-east-1"}}, VerifyOptions{Quarantine: true})
	if err != nil || len(r.Bad) == 0 {
		t.Errorf("got %+v %v", r, err)
	}
	f.fail("GET", "/data/", 507, 0)
	for _, repo := range []string{"a", "b"} {
		c.want(c.do("GET", "/v2/"+repo+"/blobs/"+layer.String(), nil), 200, "")
	}

	// A quarantine that was killed behind the pointer.
	o, err := b.get(ctx, blobKey(layer))
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodePointer(o.body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.api.PutObject(ctx, b.name, b.prefix+p.data, strings.NewReader("LAYER"), 5, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.remove(ctx, blobKey(layer)); err != nil {
		t.Fatal(err)
	}
	r, err = Verify(ctx, Options{Bucket: BucketOptions{URL: f.url, Region: "us-east-1"}}, VerifyOptions{Quarantine: true})
	if err != nil || len(r.Bad) != 1 || r.Bad[0].Digest != layer {
		t.Errorf("got %+v %v", r, err)
	}
	for _, repo := range []string{"a", "b"} {
		c.want(c.do("GET", "/v2/"+repo+"/blobs/"+layer.String(), nil), 404, codeBlobUnknown)
	}

	// A push heals a manifest.
	c.image("a", "config", "layer")
	if err := b.put(ctx, recordKey("a", desc.Digest), append(encodeHeader(desc.Digest, desc.MediaType, false), "{}"...)); err != nil {
		t.Fatal(err)
	}
	c.put("a", "x", m)
	if a := c.want(c.do("GET", "/v2/a/manifests/"+desc.Digest.String(), nil), 200, ""); digest.FromBytes(a.body) != desc.Digest {
		t.Errorf("got %s", a.body)
	}
}

// TestBucketGCKilled: what a collection left that was killed between a pointer and its data goes with
// the next, and not what was pushed again since.
func TestBucketGCKilled(t *testing.T) {
	url := startS3(t)
	b := openTestBucket(t, url)
	b.minGrace = 0
	c := serveBucket(t, b)
	ctx := t.Context()
	gone, again, kept := c.blob("a", []byte("gone")).Digest, c.blob("a", []byte("again")).Digest, c.blob("a", []byte("kept")).Digest
	var list []byte
	for _, d := range []digest.Digest{gone, again, kept} {
		p, err := b.pointer(ctx, blobKey(d))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p.encode()...)
		if d == kept {
			continue
		}
		if b.remove(ctx, blobKey(d)) != nil || b.remove(ctx, markerKey("a", d)) != nil {
			t.Fatal("cannot remove")
		}
	}
	if err := b.put(ctx, removing, list); err != nil {
		t.Fatal(err)
	}
	c.blob("a", []byte("again"))
	if _, err := b.Collect(ctx, GCOptions{Grace: time.Hour}); err != nil {
		t.Fatal(err)
	}
	data := 0
	for range b.list(ctx, "data/", "") {
		data++
	}
	if data != 2 {
		t.Errorf("%d objects of data are left, want 2", data)
	}
	for _, d := range []digest.Digest{again, kept} {
		c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, "")
	}
	if _, err := b.get(ctx, removing); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
