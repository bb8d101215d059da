package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func mountFrom(names ...string) func(digest.Digest) []string {
	return func(digest.Digest) []string { return names }
}

// failingReader is a source that must not be read.
type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("disk is gone") }

// uploads is a registry that takes one blob at a time and misbehaves.
type uploads struct {
	cut      int  // PATCH connections break after so many bytes; 0: never
	cuts     int  // so often
	forget   bool // a broken session is lost
	limit    int  // bytes a PATCH may have; 0: any
	loseDone bool // the answer to the first PUT is lost

	mu       sync.Mutex
	data     []byte
	stored   map[string][]byte
	received int
	canceled int
}

func (s *uploads) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Location", "/v2/app/blobs/uploads/session?state="+strconv.Itoa(len(s.data)))
	switch {
	case q.Method == http.MethodHead:
		if _, ok := s.stored[strings.TrimPrefix(q.URL.Path, "/v2/app/blobs/")]; !ok {
			w.WriteHeader(http.StatusNotFound)
		}
	case q.Method == http.MethodPost:
		s.data = []byte{}
		w.WriteHeader(http.StatusAccepted)
	case q.Method == http.MethodPatch:
		s.patch(w, q)
	case q.Method == http.MethodGet:
		if s.data == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(s.data)-1, 0)))
		w.WriteHeader(http.StatusNoContent)
	case q.Method == http.MethodDelete:
		s.canceled++
		s.data = nil
		w.WriteHeader(http.StatusNoContent)
	case q.Method == http.MethodPut:
		want := q.URL.Query().Get("digest")
		if got := digest.FromBytes(s.data).String(); got != want || q.URL.Query().Get("state") == "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID"}]}`)
			return
		}
		s.stored[want], s.data = s.data, nil
		if s.loseDone {
			s.loseDone = false
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
	}
}

func (s *uploads) patch(w http.ResponseWriter, q *http.Request) {
	if s.data == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if s.limit > 0 && q.ContentLength > int64(s.limit) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if r := q.Header.Get("Content-Range"); r != "" {
		if from, _, _ := strings.Cut(r, "-"); from != strconv.Itoa(len(s.data)) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
	} else if len(s.data) > 0 {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if s.cuts > 0 {
		s.cuts--
		b := make([]byte, s.cut)
		n, _ := io.ReadFull(q.Body, b)
		s.received += n
		s.data = append(s.data, b[:n]...)
		if s.forget {
			s.data = nil
		}
		panic(http.ErrAbortHandler)
	}
	b, _ := io.ReadAll(q.Body)
	s.received += len(b)
	s.data = append(s.data, b...)
	w.Header().Set("Location", "/v2/app/blobs/uploads/session?state="+strconv.Itoa(len(s.data)))
	w.WriteHeader(http.StatusAccepted)
}

func TestPushFaults(t *testing.T) {
	desc, data := blob(20, 1<<20)
	const cut = 300 << 10
	for _, tt := range []struct {
		name     string
		server   *uploads
		options  Options
		source   bool // the bytes can be read again
		want     func(error) bool
		received int // by the registry; 0: do not care
	}{
		{name: "one stream", server: &uploads{}, received: 1 << 20},
		{name: "chunks", server: &uploads{limit: 100 << 10}, options: Options{ChunkSize: 100 << 10}, received: 1 << 20},
		{name: "breaks, goes on", server: &uploads{cut: cut, cuts: 3}, source: true, received: 1 << 20},
		{name: "breaks, starts again", server: &uploads{cut: cut, cuts: 2, forget: true}, source: true, received: 1<<20 + 2*cut},
		{name: "breaks, cannot be read again", server: &uploads{cut: cut, cuts: 1}, want: errdefs.IsUnavailable},
		{name: "breaks for ever", server: &uploads{cut: 10, cuts: 1000}, source: true, want: errdefs.IsUnavailable},
		{name: "answer to the PUT is lost", server: &uploads{loseDone: true}, received: 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.server.stored = map[string][]byte{}
			c, _ := newTestClient(tt.options)
			r := repository(t, c, server(t, tt.server)+"/app")
			if tt.source {
				r.Source = memory(data)
			}
			err := r.Push(t.Context(), desc, onlyReader{bytes.NewReader(data)})
			if tt.want != nil {
				if !tt.want(err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(tt.server.stored[desc.Digest.String()], data) {
				t.Error("the registry has other bytes")
			}
			if tt.received != 0 && tt.server.received != tt.received {
				t.Errorf("the registry received %d bytes, want %d", tt.server.received, tt.received)
			}
		})
	}
}

// A proxy that refuses a whole layer gets it in pieces.
func TestPushFallsBackToChunks(t *testing.T) {
	desc, data := blob(21, fallbackChunk+1000)
	s := &uploads{limit: fallbackChunk, stored: map[string][]byte{}}
	c, _ := newTestClient(Options{})
	r := repository(t, c, server(t, s)+"/app")
	r.Source = memory(data)
	if err := r.Push(t.Context(), desc, onlyReader{bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	if len(s.stored[desc.Digest.String()]) != len(data) {
		t.Error("not stored")
	}
}

func TestPushOfWrongBytes(t *testing.T) {
	desc, data := blob(22, 200<<10)
	for name, src := range map[string]io.Reader{
		"too short": bytes.NewReader(data[:100<<10]),
		"failing":   io.MultiReader(bytes.NewReader(data[:100<<10]), failingReader{}),
		"other":     bytes.NewReader(append([]byte{data[0] ^ 1}, data[1:]...)),
	} {
		s := &uploads{stored: map[string][]byte{}}
		c, _ := newTestClient(Options{})
		err := repository(t, c, server(t, s)+"/app").Push(t.Context(), desc, onlyReader{src})
		if err == nil || len(s.stored) != 0 {
			t.Errorf("%s: %v", name, err)
		}
		if name == "failing" && !strings.Contains(err.Error(), "disk is gone") {
			t.Errorf("%s: %v", name, err)
		}
		if s.canceled == 0 {
			t.Errorf("%s: the session was left behind", name)
		}
	}
}

func TestPushEndsWithItsContext(t *testing.T) {
	desc, data := blob(23, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	s := &uploads{stored: map[string][]byte{}}
	c, waits := newTestClient(Options{})
	src := io.MultiReader(bytes.NewReader(data[:1000]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }))
	err := repository(t, c, server(t, s)+"/app").Push(ctx, desc, onlyReader{src})
	if !errors.Is(err, context.Canceled) || len(waits.list) != 0 {
		t.Errorf("%v after %v", err, waits.list)
	}
}

// TestGiveUpPush: who gives up does not wait for a registry that does not answer.
func TestGiveUpPush(t *testing.T) {
	desc, data := blob(33, 1<<20)
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Location", "/v2/app/blobs/uploads/1")
		switch q.Method {
		case http.MethodPost:
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPatch:
			cancel()
			<-stop
		case http.MethodDelete:
			<-stop
		}
	}))
	defer close(stop)
	c, _ := newTestClient(Options{})
	began := time.Now()
	err := repository(t, c, host+"/app").Push(ctx, desc, bytes.NewReader(data))
	if took := time.Since(began); !errors.Is(err, context.Canceled) || took > 2*cancelPatience {
		t.Errorf("%v after %v", err, took)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
