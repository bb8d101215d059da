package registry

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// tagsOf reads all pages of a tag list.
func tagsOf(c *client, repo, query string) (list []string) {
	c.t.Helper()
	return pages(c, "/v2/"+repo+"/tags/list"+query)
}

func pages(c *client, path string) (list []string) {
	c.t.Helper()
	for path != "" {
		a := c.want(c.do("GET", path, nil), 200, "")
		var doc struct{ Tags, Repositories []string }
		if err := json.Unmarshal(a.body, &doc); err != nil {
			c.t.Fatal(err)
		}
		if doc.Tags == nil && doc.Repositories == nil {
			c.t.Fatalf("the list is null: %s", a.body)
		}
		list = append(append(list, doc.Tags...), doc.Repositories...)
		path = nextPage(c, a)
	}
	return list
}

func TestListTags(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	want := []string{"A", "_", "a", "b", "v1", "v1.0", "v10", "v2"}
	for _, tag := range []string{"v10", "a", "v2", "_", "b", "A", "v1.0", "v1"} {
		c.put("a", tag, m)
	}
	for _, query := range []string{"", "?n=3", "?n=1", "?n=8", "?n=100", "?last=", "?n=3&last=0"} {
		if got := tagsOf(c, "a", query); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	first := func(query string) (list []string, link string) {
		a := c.want(c.do("GET", "/v2/a/tags/list"+query, nil), 200, "")
		var doc struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &doc); err != nil || doc.Name != "a" || doc.Tags == nil {
			t.Errorf("%s: %s (%v)", query, a.body, err)
		}
		return doc.Tags, a.header.Get("Link")
	}
	for query, want := range map[string]struct {
		tags []string
		link string
	}{
		"?n=2":           {[]string{"A", "_"}, `</v2/a/tags/list?last=_&n=2>; rel="next"`},
		"?n=2&last=v10":  {[]string{"v2"}, ""},
		"?last=v1":       {[]string{"v1.0", "v10", "v2"}, ""},
		"?n=2&last=v1.x": {[]string{"v10", "v2"}, ""},
		"?last=zz":       {[]string{}, ""},
		"?n=0":           {[]string{}, ""},
	} {
		if got, link := first(query); !slices.Equal(got, want.tags) || link != want.link {
			t.Errorf("%s: got %v %s, want %v %s", query, got, link, want.tags, want.link)
		}
	}
	c.want(c.do("GET", "/v2/a/tags/list?n=x", nil), 400, codePageInvalid)
	c.want(c.do("GET", "/v2/a/tags/list?n=-1", nil), 400, codePageInvalid)
	c.want(c.do("GET", "/v2/b/tags/list", nil), 404, codeNameUnknown)
	c.blob("b", []byte("x"))
	if got := tagsOf(c, "b", ""); len(got) != 0 {
		t.Errorf("got %v from a repository without tags", got)
	}
}

func TestCatalog(t *testing.T) {
	c := serve(t)
	if got := pages(c, "/v2/_catalog"); len(got) != 0 {
		t.Errorf("got %v from an empty registry", got)
	}
	// In the order of bytes "-" < "." < "/" < "0": a walk by directory would get it wrong.
	want := []string{"a", "a-b", "a.b/c", "a/b", "a/b/c", "a/x", "a0", "b/c/d", "tags/list"}
	for _, repo := range []string{"b/c/d", "a/x", "a0", "a", "a/b/c", "a-b", "a.b/c", "tags/list", "a/b"} {
		c.tagged(repo, "x")
	}
	c.blob("only/blobs", []byte("x"))
	for _, query := range []string{"", "?n=1", "?n=2", "?n=3", "?n=4", "?n=9", "?n=10"} {
		if got := pages(c, "/v2/_catalog"+query); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	for i, last := range want {
		if got := pages(c, "/v2/_catalog?n=2&last="+last); !slices.Equal(got, want[i+1:]) {
			t.Errorf("after %s: got %v, want %v", last, got, want[i+1:])
		}
	}
	if got := pages(c, "/v2/_catalog?n=0"); len(got) != 0 {
		t.Errorf("n=0: got %v", got)
	}
	c.want(c.do("GET", "/v2/_catalog?n=x", nil), 400, codePageInvalid)
}

// TestListCache: what is remembered is what is there, also after changes by others.
func TestListCache(t *testing.T) {
	dir := t.TempDir()
	add := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range cacheFrom {
		add(fmt.Sprint(i))
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	var c listCache
	names := func() []string {
		list, err := c.names(dir)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := names(); len(got) != cacheFrom || len(c.lists) != 1 || &got[0] != &names()[0] {
		t.Fatalf("%d names, %d lists: not remembered", len(got), len(c.lists))
	}
	add("new")
	if got := names(); len(got) != cacheFrom+1 || !slices.IsSorted(got) {
		t.Errorf("got %d names after another was added", len(got))
	}
	// It changed just now, and may change again without a new mtime.
	add("newer")
	if got := names(); len(got) != cacheFrom+2 {
		t.Errorf("got %d names after two were added", len(got))
	}
}

// TestPageIsBounded: no page is longer than the longest, whatever a client asks for.
func TestPageIsBounded(t *testing.T) {
	for query, want := range map[string]int{"": 10, "?n=": 10, "?n=0": 0, "?n=7": 7, "?n=999999999": maxPage} {
		n, _, err := page(httptest.NewRequest("GET", "/v2/_catalog"+query, nil), 10)
		if n != want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", query, n, err, want)
		}
	}
}
