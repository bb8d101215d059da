package registry

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestRateLimit(t *testing.T) {
	var over atomic.Bool
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !strings.Contains(q.URL.Path, "/manifests/") {
			return
		}
		w.Header().Set("RateLimit-Limit", "100;w=21600")
		w.Header().Set("RateLimit-Remaining", "76;w=21600")
		w.Header().Set("Docker-RateLimit-Source", "192.0.2.1")
		if over.Load() {
			w.Header().Set("RateLimit-Remaining", "0;w=21600")
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	c, _ := newTestClient(Options{})
	if got, ok := c.RateLimit(host); ok {
		t.Errorf("before any request: %v", got)
	}
	_, _ = repository(t, c, host+"/app").Resolve(t.Context(), "latest")
	got, ok := c.RateLimit(host)
	if !ok || got.String() != "76 of 100 pulls left in 6h" || got.Source != "192.0.2.1" {
		t.Errorf("got %v %+v", ok, got)
	}
	over.Store(true)
	_, err := repository(t, c, host+"/app").Resolve(t.Context(), "latest")
	if err == nil || !strings.Contains(err.Error(), "0 of 100 pulls left in 6h") || !strings.Contains(err.Error(), "wait 1h") {
		t.Errorf("got %v", err)
	}
}

func TestParseRateLimit(t *testing.T) {
	for remaining, want := range map[string]string{
		"5": "5 pulls left", "5;w=60": "5 pulls left in 1m", " 5 ; w=90": "5 pulls left in 1m30s", "5;x=1": "5 pulls left",
		"": "", "-1": "", "many": "", "99999999999999999999": "",
	} {
		got, ok := parseRateLimit(http.Header{"Ratelimit-Remaining": {remaining}})
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: %v %q, want %q", remaining, ok, got, want)
		}
	}
}
