package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// faulty serves one blob and misbehaves.
type faulty struct {
	bytes       []byte
	cut         int    // connections end after so many bytes; 0: never
	ignoreRange bool   // answers 200 with everything
	refuseRange bool   // answers 416
	length      int    // a Content-Length other than the truth
	rangeFrom   int64  // Content-Range begins that much later than asked
	flip        int    // this byte is wrong; 0: none
	hang        bool   // stops instead of cutting
	before      []int  // statuses of the first answers
	retryAfter  string // with them

	requests atomic.Int64
	ranges   atomic.Int64
	sent     atomic.Int64
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if !strings.Contains(q.URL.Path, "/blobs/") {
		return
	}
	n := int(f.requests.Add(1)) - 1
	if n < len(f.before) {
		if f.retryAfter != "" {
			w.Header().Set("Retry-After", f.retryAfter)
		}
		w.WriteHeader(f.before[n])
		return
	}
	body, status := bytes.Clone(f.bytes), http.StatusOK
	if f.flip > 0 {
		body[f.flip] ^= 1
	}
	if q.Header.Get("Range") != "" && f.refuseRange {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if r := q.Header.Get("Range"); r != "" && !f.ignoreRange {
		f.ranges.Add(1)
		from, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(r, "bytes="), "-"), 10, 64)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from+f.rangeFrom, len(body)-1, len(body)))
		body, status = body[from:], http.StatusPartialContent
	}
	length := len(body)
	if f.length != 0 {
		length = f.length
	}
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(status)
	if f.cut > 0 && len(body) > f.cut {
		f.sent.Add(int64(f.cut))
		w.Write(body[:f.cut])
		w.(http.Flusher).Flush()
		if f.hang {
			<-q.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	f.sent.Add(int64(len(body)))
	w.Write(body[:min(len(body), length)])
}

func TestFetchFaults(t *testing.T) {
	desc, data := blob(2, 1<<20)
	ok := func(err error) bool { return err == nil }
	for _, tt := range []struct {
		name     string
		server   *faulty
		want     func(error) bool
		text     string
		requests int64 // at most
	}{
		{"cuts every 64 KiB", &faulty{cut: 64 << 10}, ok, "", 16},
		{"cuts once, ignores Range", &faulty{cut: 900 << 10, ignoreRange: true}, errdefs.IsUnavailable, "ignores Range", 8},
		{"cuts after one byte", &faulty{cut: 1}, errdefs.IsUnavailable, "connection broke 6 times", 8},
		{"Content-Length too long", &faulty{length: 2 << 20}, errdefs.IsDataLoss, "has 2097152 bytes", 1},
		{"Content-Length too short", &faulty{length: 1 << 19}, errdefs.IsDataLoss, "has 524288 bytes", 1},
		{"continues elsewhere", &faulty{cut: 64 << 10, rangeFrom: 5}, errdefs.IsDataLoss, "instead of bytes from 65536", 2},
		{"a flipped bit", &faulty{flip: 77}, errdefs.IsDataLoss, "sent other bytes than", 1},
		{"a flipped last bit over many connections", &faulty{flip: 1<<20 - 1, cut: 100 << 10}, errdefs.IsDataLoss, "sent other bytes than", 16},
		{"5xx, then well", &faulty{before: []int{500, 502, 503, 504}}, ok, "", 5},
		{"5xx for ever", &faulty{before: []int{500, 500, 500, 500, 500, 500, 500, 500, 500}}, errdefs.IsUnavailable, "500 Internal", maxAttempts},
		{"404 once", &faulty{before: []int{404}}, errdefs.IsNotFound, "not found", 1},
		{"403 once", &faulty{before: []int{403}}, errdefs.IsPermissionDenied, "denied", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.server.bytes = data
			c, _ := newTestClient(Options{})
			got, err := fetch(t.Context(), repository(t, c, server(t, tt.server)+"/app"), desc)
			if !tt.want(err) || (tt.text != "" && !strings.Contains(err.Error(), tt.text)) {
				t.Fatalf("got error %v", err)
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Error("got other bytes")
			}
			if n := tt.server.requests.Load(); n > tt.requests {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// A server that ignores Range but gets further every time serves the blob in the end.
func TestFetchDiscardsPrefix(t *testing.T) {
	desc, data := blob(3, 200<<10)
	var n atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if n.Add(1) < 3 {
			w.Write(data[:int(n.Load())*60<<10])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(data)
	})
	c, _ := newTestClient(Options{})
	got, err := fetch(t.Context(), repository(t, c, server(t, onlyBlobs(handler))+"/app"), desc)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// onlyBlobs keeps pings from h.
func onlyBlobs(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.Contains(q.URL.Path, "/blobs/") {
			h.ServeHTTP(w, q)
		}
	})
}

// Sixty broken connections are no reason to give up as long as each brings something, nor to fetch a byte twice.
func TestFetchFetchesNothingTwice(t *testing.T) {
	const cuts = 60
	desc, data := blob(4, (cuts+1)*(40<<10))
	f := &faulty{bytes: data, cut: 40 << 10}
	c, _ := newTestClient(Options{})
	if _, err := fetch(t.Context(), repository(t, c, server(t, f)+"/app"), desc); err != nil {
		t.Fatal(err)
	}
	if got := f.sent.Load(); got != int64(len(data)) {
		t.Errorf("%d bytes sent for %d", got, len(data))
	}
	if f.ranges.Load() != cuts || f.requests.Load() != cuts+1 {
		t.Errorf("%d ranges in %d requests", f.ranges.Load(), f.requests.Load())
	}
}

func TestFetchFrom(t *testing.T) {
	desc, data := blob(7, 300_000)
	for name, test := range map[string]struct {
		f              *faulty
		offset         int
		requests, sent int64
	}{
		"middle":             {&faulty{}, 200_000, 1, 100_000},
		"beginning":          {&faulty{}, 0, 1, 300_000},
		"end":                {&faulty{}, 300_000, 0, 0},
		"breaks again":       {&faulty{cut: 60_000}, 200_000, 2, 100_000},
		"Range ignored":      {&faulty{ignoreRange: true}, 200_000, 1, 300_000},
		"Range refused":      {&faulty{refuseRange: true}, 200_000, 2, 300_000},
		"wrong bytes before": {&faulty{flip: 5}, 200_000, 1, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			test.f.bytes = data
			c, _ := newTestClient(Options{})
			r, err := repository(t, c, server(t, test.f)+"/a").FetchFrom(t.Context(), desc, int64(test.offset))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data[test.offset:]) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if n, sent := test.f.requests.Load(), test.f.sent.Load(); n != test.requests || sent != test.sent {
				t.Errorf("%d bytes in %d requests, want %d in %d", sent, n, test.sent, test.requests)
			}
		})
	}
	c, _ := newTestClient(Options{})
	if _, err := repository(t, c, "127.0.0.1:1/a").FetchFrom(t.Context(), desc, desc.Size+1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("beyond the end: %v", err)
	}
}

func TestFetchLeavesAHangingServer(t *testing.T) {
	desc, data := blob(5, 100<<10)
	c, _ := newTestClient(Options{})
	c.stall = time.Second
	f := &faulty{bytes: data, cut: 50 << 10, hang: true}
	got, err := fetch(t.Context(), repository(t, c, server(t, f)+"/app"), desc)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	desc, data := blob(6, 100<<10)
	c, _ := newTestClient(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := repository(t, c, server(t, &faulty{bytes: data, cut: 50 << 10, hang: true})+"/app").Fetch(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 50<<10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDocumentsBreak: a document whose connection breaks is asked for again.
func TestDocumentsBreak(t *testing.T) {
	small, _ := blob(32, 1000)
	manifest, data := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: small})
	var n atomic.Int64
	docs := map[string]string{"manifests": string(data), "tags": `{"tags":["a","b"]}`, "referrers": `{"manifests":[]}`}
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		doc := docs[strings.Split(q.URL.Path, "/")[3]]
		w.Header().Set("Content-Type", manifest.MediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
		if n.Add(1) < 3 {
			w.Write([]byte(doc[:10]))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write([]byte(doc))
	}))
	c, _ := newTestClient(Options{})
	r := repository(t, c, host+"/app")
	for name, f := range map[string]func() error{
		"manifest":  func() error { _, _, err := r.Manifest(t.Context(), "v1"); return err },
		"tags":      func() error { _, err := r.Tags(t.Context()); return err },
		"referrers": func() error { _, err := r.Referrers(t.Context(), manifest.Digest); return err },
	} {
		n.Store(0)
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	desc, data := blob(7, 1000)
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		header   string
		wait     time.Duration // at least, and less than a second more
		requests int64
	}{
		{"7", 7 * time.Second, 2},
		{now.Add(30 * time.Second).Format(http.TimeFormat), 30 * time.Second, 2},
		{"nonsense", 0, 2},
		{"-5", 0, 2},
		{"86400", 0, 1}, // too long: said, not waited for
	} {
		c, waits := newTestClient(Options{})
		c.now = func() time.Time { return now }
		f := &faulty{bytes: data, before: []int{429}, retryAfter: tt.header}
		_, err := fetch(t.Context(), repository(t, c, server(t, f)+"/app"), desc)
		if (err == nil) != (tt.requests == 2) {
			t.Errorf("%q: %v", tt.header, err)
		}
		if got := f.requests.Load(); got != tt.requests {
			t.Errorf("%q: %d requests", tt.header, got)
		}
		if tt.requests == 2 && (len(waits.list) != 1 || waits.list[0] < tt.wait || waits.list[0] > tt.wait+time.Second) {
			t.Errorf("%q: waited %v", tt.header, waits.list)
		}
		if tt.requests == 1 && (!errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "24h")) {
			t.Errorf("%q: %v", tt.header, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	desc, data := blob(8, 1000)
	var leaked, served atomic.Int64
	elsewhere := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "" || q.Header.Get("Cookie") != "" {
			leaked.Add(1)
		}
		served.Add(1)
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
	}))
	expired := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	var n atomic.Int64
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, pass, _ := q.BasicAuth(); user != "u" || pass != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		target := ""
		switch repo := strings.Split(q.URL.Path, "/")[2]; repo {
		case "app":
			target = "http://" + elsewhere + "/store/blob"
		case "expired": // the first address is no good any more
			target = "http://" + expired + "/blob"
			if n.Add(1) > 1 {
				target = "http://" + elsewhere + "/blob"
			}
		case "metadata":
			target = "http://169.254.169.254/latest/meta-data"
		case "file":
			target = "file:///etc/passwd"
		case "loop":
			target = q.URL.Path
		case "none":
		}
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	for repo, text := range map[string]string{
		"app": "", "expired": "", "metadata": "link-local", "file": "no usable address", "loop": "too many redirects", "none": "no usable address",
	} {
		got, err := fetch(t.Context(), repository(t, c, host+"/"+repo), desc)
		switch {
		case text == "" && (err != nil || !bytes.Equal(got, data)):
			t.Errorf("%s: %v", repo, err)
		case text != "" && (err == nil || !strings.Contains(err.Error(), text)):
			t.Errorf("%s: %v", repo, err)
		}
	}
	if served.Load() != 2 || leaked.Load() != 0 {
		t.Errorf("%d served elsewhere, %d with credentials", served.Load(), leaked.Load())
	}
	// Nothing is ever written elsewhere.
	big, bigData := blob(9, 100<<10)
	err := repository(t, c, host+"/app").Push(t.Context(), big, bytes.NewReader(bigData))
	if !errdefs.IsPermissionDenied(err) || served.Load() != 2 {
		t.Errorf("push: %v", err)
	}
}

// TestForeignLayers: what the registry may not distribute is where the descriptor says, and nobody there learns a password.
func TestForeignLayers(t *testing.T) {
	desc, data := blob(16, 100<<10)
	desc.MediaType = content.MediaTypeDockerForeignGzip
	var leaked atomic.Int64
	var cut atomic.Bool
	elsewhere := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		if cut.CompareAndSwap(false, true) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:50<<10])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
	}))
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, _, ok := q.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	for _, tt := range []struct {
		mediaType string
		urls      []string
		text      string // of the error
	}{
		{desc.MediaType, []string{"file:///etc/passwd", "http://" + elsewhere + "/layer"}, ""},
		{desc.MediaType, []string{"http://169.254.169.254/layer"}, "link-local"},
		{desc.MediaType, []string{"file:///etc/passwd"}, "no usable address"},
		{ocispec.MediaTypeImageLayerGzip, []string{"http://" + elsewhere + "/layer"}, "not found at"},
	} {
		d := desc
		d.MediaType, d.URLs = tt.mediaType, tt.urls
		c, _ := newTestClient(Options{Keychain: keychain{basic}})
		got, err := fetch(t.Context(), repository(t, c, host+"/app"), d)
		switch {
		case tt.text == "" && (err != nil || !bytes.Equal(got, data)):
			t.Errorf("%s: %v", tt.urls, err)
		case tt.text != "" && (err == nil || !strings.Contains(err.Error(), tt.text)):
			t.Errorf("%s: %v", tt.urls, err)
		}
	}
	if leaked.Load() != 0 {
		t.Error("another server got the user's password")
	}
}

func TestRedirectFromTLSToPlain(t *testing.T) {
	insecure := parseInsecure(nil)
	q, err := http.NewRequest(http.MethodGet, "https://registry.example/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redirectTarget(request{method: http.MethodGet}, q.URL, "http://cdn.example/blob", insecure); !errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v", err)
	}
	// A MinIO beside the registry has a private address; that is no reason to refuse.
	if _, err := redirectTarget(request{method: http.MethodGet}, q.URL, "https://10.0.0.5:9000/blob", insecure); err != nil {
		t.Error(err)
	}
}

func TestConnectionRefusedFailsAtOnce(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	c, waits := newTestClient(Options{})
	_, err := repository(t, c, host+"/app").Resolve(t.Context(), "latest")
	if !errdefs.IsUnavailable(err) || len(waits.list) != 0 {
		t.Errorf("%v after %v", err, waits.list)
	}
}

func TestInsecureTLS(t *testing.T) {
	s := httptest.NewTLSServer(plain())
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	c, _ := newTestClient(Options{})
	if _, err := repository(t, c, host+"/app").Exists(t.Context(), ocispec.Descriptor{Digest: "sha256:" + "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"}); err != nil {
		t.Errorf("loopback: %v", err)
	}
	// The same server under a name that is not loopback is not trusted.
	h := c.host("registry.example")
	h.addr = host
	_, err := h.do(t.Context(), request{method: http.MethodGet, path: "/v2/"})
	var n *networkError
	if !errors.As(err, &n) || !strings.Contains(n.Hint(), "CA certificate") {
		t.Errorf("untrusted certificate: %v", err)
	}
}

// TestPlainServer: a registry without TLS is told in the words that users look for.
func TestPlainServer(t *testing.T) {
	s := httptest.NewServer(plain())
	t.Cleanup(s.Close)
	c, _ := newTestClient(Options{})
	h := c.host("registry.example")
	h.addr = strings.TrimPrefix(s.URL, "http://")
	_, err := h.do(t.Context(), request{method: http.MethodGet, path: "/v2/"})
	var n *networkError
	if !errors.As(err, &n) || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") || !strings.Contains(n.Hint(), "insecure-registries") {
		t.Errorf("%v", err)
	}
}
