package registry

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestProxy pulls through the proxies of the environment. Loopback addresses never go through one,
// so the registries here are names that only the proxy knows.
func TestProxy(t *testing.T) {
	desc, data := blob(31, 1000)
	registry := server(t, onlyBlobs(&faulty{bytes: data}))
	var mu sync.Mutex
	var asked []string
	proxy := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		asked = append(asked, q.Method+" "+q.URL.Host)
		mu.Unlock()
		if q.Method == http.MethodConnect || q.Header.Get("Proxy-Authorization") != "Basic dTpw" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		resp, err := http.DefaultTransport.RoundTrip(&http.Request{Method: q.Method, URL: &url.URL{Scheme: "http", Host: registry, Path: q.URL.Path}, Header: q.Header})
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTP_PROXY", "http://u:p@"+proxy)
	t.Setenv("HTTPS_PROXY", "")
	t.Setenv("NO_PROXY", "direct.invalid,10.0.0.0/8")
	c, _ := newTestClient(Options{Insecure: []string{"registry.invalid:5000", "direct.invalid:5000"}})
	// A registry that may have no TLS is asked by TLS too, which has no proxy here.
	if got, err := fetch(t.Context(), repository(t, c, "registry.invalid:5000/app"), desc); err != nil || string(got) != string(data) {
		t.Errorf("through the proxy: %d bytes, %v", len(got), err)
	}
	if _, err := fetch(t.Context(), repository(t, c, "direct.invalid:5000/app"), desc); err == nil || !strings.Contains(err.Error(), "direct.invalid") {
		t.Errorf("NO_PROXY: %v", err)
	}
	if d := cmp.Diff([]string{"GET registry.invalid:5000"}, asked); d != "" {
		t.Errorf("the proxy was asked for: %s", d)
	}
	asked = nil
	t.Setenv("HTTPS_PROXY", "http://"+proxy)
	c, _ = newTestClient(Options{})
	_, err := fetch(t.Context(), repository(t, c, "secure.invalid/app"), desc)
	if err == nil || len(asked) == 0 || asked[0] != "CONNECT secure.invalid:443" {
		t.Errorf("HTTPS_PROXY: %v, asked %q", err, asked)
	}
}
