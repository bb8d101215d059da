package registry

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestSearch(t *testing.T) {
	all := []SearchResult{
		{Name: "nginx", Description: "Official \x1b[31mbuild\nof it", StarCount: 20000, IsOfficial: true},
		{Name: "someone/nginx", StarCount: 3, IsAutomated: true}, {Name: "other/nginx"},
	}
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path != "/v1/search" || q.Header.Get("Authorization") != "":
			http.NotFound(w, q)
		case q.FormValue("q") == "html":
			_, _ = w.Write([]byte("<html>"))
		case q.FormValue("q") == "team/nginx" && q.FormValue("n") == "2":
			_ = json.NewEncoder(w).Encode(map[string]any{"num_results": 3, "results": all}) // more than asked for
		case q.FormValue("q") == "team/usual" && q.FormValue("n") == "25":
			_ = json.NewEncoder(w).Encode(map[string]any{"results": all})
		default:
			_ = json.NewEncoder(w).Encode(map[string]any{"results": []any{}})
		}
	}))
	c, _ := newTestClient(Options{})
	got, err := c.Search(t.Context(), host+"/team/nginx", 2)
	want := []SearchResult{{Name: "nginx", Description: "Official  [31mbuild of it", StarCount: 20000, IsOfficial: true}, all[1]}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if got, err := c.Search(t.Context(), host+"/team/usual", 0); err != nil || len(got) != len(all) {
		t.Errorf("the usual limit: %v, %v", got, err)
	}
	if got, err := c.Search(t.Context(), host+"/nothing", 25); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	if _, err := c.Search(t.Context(), host+"/html", 25); !errdefs.IsUnavailable(err) {
		t.Errorf("no JSON: %v", err)
	}
	for term, limit := range map[string]int{"a": -1, "b": 101, "https://hub.docker.com/x": 1} {
		if _, err := c.Search(t.Context(), term, limit); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s, %d: %v", term, limit, err)
		}
	}
	if h := c.hostAt(hubDomain, hubAuth, false); h.addr != "index.docker.io" || h.auth.credentials {
		t.Errorf("Docker Hub is asked at %s, with credentials: %v", h.addr, h.auth.credentials)
	}
}
