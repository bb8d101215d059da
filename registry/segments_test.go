package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// slow sends every answer in small pieces with pauses, as a link that limits each connection does.
type slow struct {
	bytes []byte
	fault func(n int64, w http.ResponseWriter, q *http.Request) bool // answers request n itself

	requests, running, most, sent atomic.Int64
}

func (s *slow) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	n := s.requests.Add(1)
	running := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.most.Load(); running > most && !s.most.CompareAndSwap(most, running); most = s.most.Load() {
	}
	if s.fault != nil && s.fault(n, w, q) {
		return
	}
	http.ServeContent(&slowWriter{w, s}, q, "", time.Time{}, bytes.NewReader(s.bytes))
}

type slowWriter struct {
	http.ResponseWriter
	s *slow
}

func (w *slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var m int
		m, err = w.ResponseWriter.Write(p[:min(len(p), 16<<10)])
		w.ResponseWriter.(http.Flusher).Flush()
		w.s.sent.Add(int64(m))
		n, p = n+m, p[m:]
		time.Sleep(time.Millisecond)
	}
	return n, err
}

// spreading is a client for which 64 KiB are a large segment.
func spreading() *Client {
	c, _ := newTestClient(Options{})
	c.spread = spreadOptions{after: 64 << 10, size: 64 << 10, fast: 1 << 50}
	return c
}

func TestFetchOverSeveralConnections(t *testing.T) {
	desc, data := blob(21, 2<<20+12345)
	refuse := func(status int) func(int64, http.ResponseWriter, *http.Request) bool {
		return func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n == 3 {
				w.WriteHeader(status)
			}
			return n == 3
		}
	}
	flipped := bytes.Clone(data)
	flipped[1<<20] ^= 1
	for name, tt := range map[string]struct {
		server *slow
		want   func(error) bool
		most   int64 // connections at once, beside one that ends
	}{
		"well":                {&slow{}, nil, segmentBuffers},
		"an error of 500":     {&slow{fault: refuse(500)}, nil, segmentBuffers},
		"an error of 404":     {&slow{fault: refuse(404)}, nil, segmentBuffers},
		"a wrong byte":        {&slow{bytes: flipped}, errdefs.IsDataLoss, segmentBuffers},
		"no Accept-Ranges":    {&slow{fault: func(_ int64, w http.ResponseWriter, _ *http.Request) bool { return withoutRanges(w, data) }}, nil, 1},
		"some ignore Range":   {&slow{fault: func(n int64, w http.ResponseWriter, _ *http.Request) bool { return n == 4 && withoutRanges(w, data) }}, nil, segmentBuffers},
		"each ends too early": {&slow{fault: cutShort(data)}, nil, segmentBuffers},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.server.bytes == nil {
				tt.server.bytes = data
			}
			c := spreading()
			got, err := fetch(t.Context(), repository(t, c, server(t, onlyBlobs(tt.server))+"/app"), desc)
			switch {
			case tt.want != nil && !tt.want(err), tt.want == nil && err != nil:
				t.Errorf("got error %v", err)
			case err == nil && !bytes.Equal(got, data):
				t.Error("got other bytes")
			}
			if most := tt.server.most.Load(); most > tt.most+1 || tt.most > 1 && most < 2 {
				t.Errorf("%d connections at once, want %d", most, tt.most)
			}
			if c.buffersInUse != 0 {
				t.Errorf("%d buffers are not given back", c.buffersInUse)
			}
		})
	}
}

func withoutRanges(w http.ResponseWriter, data []byte) bool {
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	for ; len(data) > 0; data = data[min(len(data), 16<<10):] {
		if _, err := w.Write(data[:min(len(data), 16<<10)]); err != nil {
			return true
		}
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Microsecond)
	}
	return true
}

// cutShort ends every answer but the first after 40,000 bytes.
func cutShort(data []byte) func(int64, http.ResponseWriter, *http.Request) bool {
	return func(n int64, w http.ResponseWriter, q *http.Request) bool {
		var from, to int
		if _, err := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
			return false
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
		w.Header().Set("Content-Length", fmt.Sprint(to+1-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data[from:min(to+1, from+40_000)])
		w.(http.Flusher).Flush()
		if to+1 > from+40_000 {
			panic(http.ErrAbortHandler)
		}
		return true
	}
}

// Many downloads share the buffers, and all of them end.
func TestManyDownloadsShareBuffers(t *testing.T) {
	desc, data := blob(22, 1<<20)
	c := spreading()
	repo := repository(t, c, server(t, onlyBlobs(&slow{bytes: data}))+"/app")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if got, err := fetch(t.Context(), repo, desc); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if c.buffersInUse != 0 {
		t.Errorf("%d buffers are not given back", c.buffersInUse)
	}
}

// A reader that goes away in the middle leaves no request behind.
func TestLeaveSeveralConnections(t *testing.T) {
	desc, data := blob(23, 4<<20)
	s := &slow{bytes: data}
	c := spreading()
	repo := repository(t, c, server(t, onlyBlobs(s))+"/app")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := repo.Fetch(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "bytes from") {
		t.Errorf("got %v", err)
	}
	if err := r.Close(); err != nil || c.buffersInUse != 0 {
		t.Errorf("%v, %d buffers in use", err, c.buffersInUse)
	}
}

// Where the registry's redirect leads is asked again without the registry, until the address is no good any more.
func TestSegmentsFollowOneRedirect(t *testing.T) {
	desc, data := blob(24, 2<<20)
	var asked, refused atomic.Int64
	store := &slow{bytes: data, fault: func(n int64, w http.ResponseWriter, q *http.Request) bool {
		if n > 20 && q.URL.Path == "/1" {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}}
	elsewhere := server(t, store)
	registry := server(t, onlyBlobs(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, fmt.Sprintf("http://%s/%d", elsewhere, asked.Add(1)), http.StatusTemporaryRedirect)
	})))
	got, err := fetch(t.Context(), repository(t, spreading(), registry+"/app"), desc)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// Connections that have asked the old address at the same time all learn a new one.
	if n := asked.Load(); n < 2 || n > 1+segmentConnections || refused.Load() == 0 {
		t.Errorf("the registry was asked %d times, the old address %d times in vain", n, refused.Load())
	}
}

// A download that found the buffers taken uses several connections when they are free.
func TestSpreadLater(t *testing.T) {
	desc, data := blob(25, 4<<20)
	c := spreading()
	c.takeBuffers(segmentBuffers)
	var s slow
	s.bytes = data
	repo := repository(t, c, server(t, onlyBlobs(&s))+"/app")
	r, err := repo.Fetch(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil || s.most.Load() != 1 {
		t.Fatalf("%v; %d connections without buffers", err, s.most.Load())
	}
	c.giveBuffers(segmentBuffers)
	if _, err := io.Copy(io.Discard, r); err != nil || s.most.Load() < segmentConnections {
		t.Errorf("%v; %d connections at once", err, s.most.Load())
	}
}

// Several downloads have several connections between them; the last that is left takes as many.
func TestSpreadAlone(t *testing.T) {
	desc, data := blob(27, 4<<20)
	var s slow
	s.bytes = data
	repo := repository(t, spreading(), server(t, onlyBlobs(&s))+"/app")
	var readers [2]io.ReadCloser
	for i := range readers {
		var err error
		if readers[i], err = repo.Fetch(t.Context(), desc); err != nil {
			t.Fatal(err)
		}
		defer readers[i].Close()
	}
	for _, r := range readers {
		if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.most.Load(); n != 2 {
		t.Fatalf("%d connections for two downloads", n)
	}
	readers[0].Close()
	if _, err := io.Copy(io.Discard, readers[1]); err != nil || s.most.Load() < segmentConnections {
		t.Errorf("%v; %d connections at once", err, s.most.Load())
	}
}

// A connection that stands still holds up the others when all slots are filled, not before.
func TestSegmentsPassASlowConnection(t *testing.T) {
	desc, data := blob(26, 4<<20)
	others := make(chan struct{})
	s := &slow{bytes: data, fault: func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		switch n {
		case 3:
			select {
			case <-others:
			case <-time.After(10 * time.Second):
				t.Error("the others waited")
			}
		case 1 + segmentBuffers: // the connection that was first, and all slots
			close(others)
		}
		return false
	}}
	got, err := fetch(t.Context(), repository(t, spreading(), server(t, onlyBlobs(s))+"/app"), desc)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
