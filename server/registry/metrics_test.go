package registry

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMetrics: every line has Prometheus' form, and what was done is counted.
func TestMetrics(t *testing.T) {
	g, err := New(Options{Root: t.TempDir(), AllowDelete: true})
	if err != nil {
		t.Fatal(err)
	}
	c := serveRegistry(t, g)
	c.tagged("a", "v1")
	c.do("BREW", "/v2/", nil)
	c.do("GET", "/nowhere", nil)
	g.collect(t.Context())
	srv := httptest.NewServer(g.Metrics())
	defer srv.Close()
	text := string((&client{t, srv.URL, srv.Client()}).do("GET", "/metrics", nil).body)
	form := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+)$`)
	for line := range strings.Lines(text) {
		if !form.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("not a line of metrics: %q", line)
		}
	}
	for _, want := range []string{
		`_count{endpoint="manifest",method="PUT",status="201"} 1`, `_bucket{endpoint="upload",method="PUT",status="201",le="+Inf"} 2`,
		`_count{endpoint="base",method="other",status="405"} 1`, `_count{endpoint="other",method="GET",status="404"} 1`,
		"teu_registry_gc_runs_total 1\n", "teu_registry_requests_in_flight 0\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

// TestHealth: a process is ready while its storage is.
func TestHealth(t *testing.T) {
	o := testStorage(t)
	o.Htpasswd = filepath.Join(t.TempDir(), "users")
	writeUsers(t, o.Htpasswd, hashed(t, "ann", "x"))
	c := serveOptions(t, o)
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := c.do("GET", path, nil); a.status != 200 || string(a.body) != "ok\n" {
			t.Errorf("%s: got %d %q", path, a.status, a.body)
		}
	}
	if o.Root == "" {
		return
	}
	if err := os.RemoveAll(filepath.Join(o.Root, "tmp")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503} {
		if a := c.do("GET", path, nil); a.status != want {
			t.Errorf("%s without storage: got %d, want %d", path, a.status, want)
		}
	}
}
