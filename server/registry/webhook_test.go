package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestWebhook: pushes and deletions are told in their order, and again until they are heard.
func TestWebhook(t *testing.T) {
	var mu sync.Mutex
	var got []string
	var tries atomic.Int32
	heard := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) <= 2 {
			w.WriteHeader(500)
			return
		}
		var doc struct{ Events []event }
		if err := json.NewDecoder(r.Body).Decode(&doc); err != nil || r.Header.Get("Content-Type") != eventsType || r.Header.Get("X-Key") != "k" {
			t.Errorf("got %v, %v", r.Header, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range doc.Events {
			if e.Action == "push" && e.Target.URL != "http://"+e.Request.Host+"/v2/a/manifests/"+e.Target.Digest {
				t.Errorf("got the URL %q", e.Target.URL)
			}
			got = append(got, fmt.Sprintf("%s %s:%s", e.Action, e.Target.Repository, e.Target.Tag))
			heard <- struct{}{}
		}
	}))
	defer srv.Close()
	g, err := New(Options{Root: t.TempDir(), AllowDelete: true, Webhooks: []Webhook{{srv.URL, map[string]string{"X-Key": "k"}}}})
	if err != nil {
		t.Fatal(err)
	}
	g.hooks[0].first = time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	var upkeep sync.WaitGroup
	upkeep.Go(func() { g.Maintain(ctx) })
	c := serveRegistry(t, g)
	d := c.tagged("a", "v1")
	c.want(c.do("DELETE", "/v2/a/manifests/v1", nil), 202, "")
	c.want(c.do("DELETE", "/v2/a/manifests/"+d.Digest.String(), nil), 202, "")
	for range 3 {
		<-heard
	}
	stop()
	upkeep.Wait()
	if want := []string{"push a:v1", "delete a:v1", "delete a:"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := New(Options{Root: t.TempDir(), Webhooks: []Webhook{{URL: "x"}}}); err == nil {
		t.Error("a webhook that is no URL was taken")
	}
}

// TestWebhookHeaders: a file of headers is read, and one that is none is refused.
func TestWebhookHeaders(t *testing.T) {
	tests := map[string]struct {
		file string
		want map[string]string // nil: refused
	}{
		"two":             {"# secret\n\nAuthorization: Bearer a:b\n X-Key:k\n", map[string]string{"Authorization": "Bearer a:b", "X-Key": "k"}},
		"none":            {"", map[string]string{}},
		"no colon":        {"Authorization\n", nil},
		"no name":         {": x\n", nil},
		"space in a name": {"A B: x\n", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "headers")
			if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadHeaders(file)
			if !maps.Equal(got, test.want) || (err != nil) != (test.want == nil) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

// TestWebhookQueue: of more events than are kept the last are.
func TestWebhookQueue(t *testing.T) {
	hooks, err := newHooks([]Webhook{{URL: "http://127.0.0.1:1"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxEvents + 5 {
		hooks[0].add(event{ID: fmt.Sprint(i)})
	}
	if e := hooks[0].events; len(e) != maxEvents || e[0].ID != "5" || hooks[0].lost != 5 {
		t.Errorf("got %d events from %s, %d lost", len(e), e[0].ID, hooks[0].lost)
	}
}

// TestWebhookMemory: events that nobody hears hold little, however long the requests were.
func TestWebhookMemory(t *testing.T) {
	g, err := New(Options{Root: t.TempDir(), Webhooks: []Webhook{{URL: "http://127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	kept := held(func() any {
		for i := range 500 {
			long := strings.Repeat("x", 60<<10)
			r := httptest.NewRequest("PUT", fmt.Sprintf("/v2/a/manifests/v%d?%s", i, long), nil)
			r.Header.Set("User-Agent", long+"u")
			r.Host = long + "h"
			rt, err := parseRoute(r.URL.Path)
			if err != nil {
				t.Fatal(err)
			}
			g.notifyPush(r, rt, manifest{mediaType: (long + "m")[60<<10:]}, []string{rt.ref})
		}
		return g
	})
	if kept > 4<<20 {
		t.Errorf("500 events hold %d KB", kept>>10)
	}
}

// held returns how many bytes are in use for what f returns.
func held(f func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}
