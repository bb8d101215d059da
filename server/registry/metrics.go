package registry

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// metrics counts what the registry does, for Prometheus. Its text format 0.0.4 is simple
// enough to be written by hand.
type metrics struct {
	inFlight atomic.Int64
	sent     atomic.Int64

	mu       sync.Mutex
	requests map[requestLabels]*requestCount

	collections, collectionErrors     atomic.Int64
	removedBlobs, removedBytes        atomic.Int64
	collectionSeconds, collectionEnds atomic.Int64 // of the last one: milliseconds, and Unix time
}

// requestLabels are few: no label comes from a client.
type requestLabels struct {
	endpoint string
	method   string
	status   int
}

type requestCount struct {
	buckets [len(requestBuckets)]int64
	count   int64
	seconds float64
}

// requestBuckets are the upper ends of the histogram of durations, in seconds.
var requestBuckets = [...]float64{0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60}

// request counts a request that was answered.
func (m *metrics) request(r *http.Request, status int, sent int64, took time.Duration) {
	endpoint := "other"
	if rt, err := parseRoute(r.URL.Path); err == nil {
		endpoint = rt.kind.String()
	}
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete:
	default:
		method = "other"
	}
	if status == 0 {
		status = http.StatusOK
	}
	m.sent.Add(sent)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.requests == nil {
		m.requests = map[requestLabels]*requestCount{}
	}
	l := requestLabels{endpoint, method, status}
	c := m.requests[l]
	if c == nil {
		c = &requestCount{}
		m.requests[l] = c
	}
	c.count++
	c.seconds += took.Seconds()
	for i, end := range requestBuckets {
		if took.Seconds() <= end {
			c.buckets[i]++
		}
	}
}

// collection counts a collection of garbage.
func (m *metrics) collection(r GCReport, err error, took time.Duration) {
	m.collections.Add(1)
	if err != nil {
		m.collectionErrors.Add(1)
	}
	m.removedBlobs.Add(int64(r.RemovedBlobs))
	m.removedBytes.Add(r.Bytes)
	m.collectionSeconds.Store(took.Milliseconds())
	m.collectionEnds.Store(time.Now().Unix())
}

// write writes all of it.
func (m *metrics) write(w io.Writer) {
	m.writeRequests(w)
	value := func(name, kind, help string, v any) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %v\n", name, help, name, kind, name, v)
	}
	value("teu_registry_requests_in_flight", "gauge", "Requests that are being answered.", m.inFlight.Load())
	value("teu_registry_sent_bytes_total", "counter", "Bytes of answers.", m.sent.Load())
	value("teu_registry_gc_runs_total", "counter", "Collections of garbage by this server.", m.collections.Load())
	value("teu_registry_gc_errors_total", "counter", "Those that left something alone they could not read.", m.collectionErrors.Load())
	value("teu_registry_gc_removed_blobs_total", "counter", "Blobs they removed.", m.removedBlobs.Load())
	value("teu_registry_gc_removed_bytes_total", "counter", "Bytes of these.", m.removedBytes.Load())
	value("teu_registry_gc_last_seconds", "gauge", "How long the last one took.", float64(m.collectionSeconds.Load())/1000)
	value("teu_registry_gc_last_end_timestamp_seconds", "gauge", "When it ended.", m.collectionEnds.Load())
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	value("go_goroutines", "gauge", "Goroutines that exist.", runtime.NumGoroutine())
	value("go_memstats_heap_alloc_bytes", "gauge", "Bytes of objects in the heap.", mem.HeapAlloc)
	value("process_resident_memory_bytes", "gauge", "Resident memory.", residentMemory())
}

func (m *metrics) writeRequests(w io.Writer) {
	const name = "teu_registry_request_duration_seconds"
	fmt.Fprintf(w, "# HELP %s Requests by endpoint, method and status.\n# TYPE %s histogram\n", name, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	labels := slices.SortedFunc(maps.Keys(m.requests), func(a, b requestLabels) int {
		return cmp.Or(cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.method, b.method), a.status-b.status)
	})
	for _, l := range labels {
		c := m.requests[l]
		text := fmt.Sprintf(`endpoint="%s",method="%s",status="%d"`, l.endpoint, l.method, l.status)
		for i, end := range requestBuckets {
			fmt.Fprintf(w, "%s_bucket{%s,le=\"%v\"} %d\n", name, text, end, c.buckets[i])
		}
		fmt.Fprintf(w, "%s_bucket{%s,le=\"+Inf\"} %d\n%s_sum{%s} %v\n%s_count{%s} %d\n", name, text, c.count, name, text, c.seconds, name, text, c.count)
	}
}

// residentMemory reads the second number of proc(5) statm, 0 where there is none.
func residentMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Metrics is a handler for those who run the registry, not for its clients: /metrics for
// Prometheus, /healthz and /readyz.
func (g *Registry) Metrics() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer // not while holding up requests for a slow reader
		g.metrics.write(&b)
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write(b.Bytes())
	})
	mux.HandleFunc("GET /healthz", g.serveHealth)
	mux.HandleFunc("GET /readyz", g.serveHealth)
	return mux
}

// readyTime is how long the storage may take to answer when somebody asks for readiness.
const readyTime = 5 * time.Second

// serveHealth answers /healthz, which says that the process lives, and /readyz, which says
// that its storage answers too.
func (g *Registry) serveHealth(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.URL.Path == "/readyz" {
		ctx, cancel := context.WithTimeout(r.Context(), readyTime)
		defer cancel()
		if err := g.store.Ready(ctx); err != nil {
			g.log.Error("not ready", "error", err)
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "the storage does not answer\n")
			return
		}
	}
	io.WriteString(w, "ok\n")
}

// Ready implements storage.
func (s *directory) Ready(context.Context) error {
	tmp, err := s.writeTemp([]byte("ready?\n")) // a full or read-only disk is not
	if err != nil {
		return err
	}
	return os.Remove(tmp)
}

// Ready implements storage.
func (b *bucket) Ready(ctx context.Context) error {
	_, err := b.get(ctx, "layout")
	return err
}
