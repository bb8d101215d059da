package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestRules: which rule decides, and what of a list of tags it removes.
func TestRules(t *testing.T) {
	rs, err := DecodeRules(strings.NewReader(`[
		{"repositories": "team/**", "tags": "v*", "immutable": true},
		{"repositories": "team/**", "tags": "keep"},
		{"repositories": "team/**", "tags": "pr-*", "keepLast": 2, "maxAge": "24h"},
		{"repositories": "team/**", "tags": "old-*", "maxAge": "48h"},
		{"repositories": "team/**", "untagged": true},
		{"repositories": "**", "keepLast": 1}]`))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ago := func(name string, hours int) tagInfo {
		return tagInfo{name: name, pushed: now.Add(-time.Duration(hours) * time.Hour), version: name}
	}
	all := []tagInfo{ago("v1", 900), ago("keep", 900), ago("pr-1", 40), ago("pr-2", 30), ago("pr-3", 35), ago("pr-4", 1), ago("old-1", 50), ago("old-2", 40), ago("x", 9), ago("y", 8)}
	for repo, want := range map[string][]string{
		"team/app": {"pr-3 3", "pr-1 3", "old-1 4", "x 6"},
		"other":    {"x 6", "old-2 6", "pr-2 6", "pr-3 6", "pr-1 6", "y 6", "old-1 6", "v1 6", "keep 6"},
	} {
		var got []string
		for _, e := range rs.expired(repo, all, now) {
			got = append(got, fmt.Sprintf("%s %d", e.Tag, e.Rule))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", repo, got, want)
		}
	}
	if !rs.immutable("team/a", "v2") || rs.immutable("other", "v2") || !rs.untagged("team/a") || rs.untagged("other") {
		t.Error("the wrong rule decides")
	}
	for name, bad := range map[string]string{
		"no list": `{}`, "no repositories": `[{"keepLast":1}]`, "unknown": `[{"repositories":"a","x":1}]`,
		"negative": `[{"repositories":"a","keepLast":-1}]`, "says nothing": `[{"repositories":"a"}]`,
		"untagged tags": `[{"repositories":"a","tags":"x","untagged":true}]`, "age": `[{"repositories":"a","maxAge":"old"}]`,
	} {
		if _, err := DecodeRules(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// rulesServer is a registry with rules.
func rulesServer(t *testing.T, rs Rules) (*client, *Registry, Options) {
	t.Helper()
	o := testStorage(t)
	o.AllowDelete = true
	if err := SetRules(t.Context(), o, rs); err != nil {
		t.Fatal(err)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return serveRegistry(t, g), g, o
}

// TestImmutable: such a tag is set once, and clients cannot remove it in any way.
func TestImmutable(t *testing.T) {
	c, _, _ := rulesServer(t, Rules{{Repositories: "a", Tags: "v*", Immutable: true}})
	first, second := c.image("a", "c", "1"), c.image("a", "c", "2")
	d := c.put("a", "v1", first)
	c.put("a", "v1", first)
	c.put("a", "free", second)
	c.put("a", "free", first)
	put := func(tag string, m any) answer {
		return c.do("PUT", "/v2/a/manifests/"+tag, bytes.NewReader(encode(t, m)), "Content-Type", first.MediaType)
	}
	c.want(put("v1", second), 403, codeDenied)
	c.want(c.do("DELETE", "/v2/a/manifests/v1", nil), 403, codeDenied)
	c.want(c.do("DELETE", "/v2/a/manifests/"+d.Digest.String(), nil), 403, codeDenied)
	c.want(c.do("DELETE", "/v2/a/manifests/free", nil), 202, "")
	a := c.want(c.do("GET", "/v2/a/manifests/v1", nil), 200, "")
	if a.header.Get("Docker-Content-Digest") != d.Digest.String() {
		t.Error("the tag moved")
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	statuses := map[int]int{}
	for _, m := range []any{first, second, first, second, first, second} {
		work.Go(func() {
			a := put("v2", m)
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
		})
	}
	work.Wait()
	if statuses[201] != 3 || statuses[403] != 3 {
		t.Errorf("of six pushes of two images to one immutable tag: %v", statuses)
	}
}

// TestRetention: a collection removes what the rules remove and what is garbage then; a
// preview tells.
func TestRetention(t *testing.T) {
	rs := Rules{{Repositories: "a", Tags: "pr-*", KeepLast: 1}, {Repositories: "a", Untagged: true}}
	c, g, o := rulesServer(t, rs)
	for _, tag := range []string{"pr-1", "main"} {
		c.tagged("a", tag)
	}
	time.Sleep(1100 * time.Millisecond) // buckets tell times by seconds
	last := c.tagged("a", "pr-2")
	c.tagged("b", "pr-1")
	list, err := PreviewRules(t.Context(), o, rs)
	if err != nil || len(list) != 1 || list[0].Tag != "pr-1" || list[0].Repository != "a" || list[0].Rule != 1 {
		t.Fatalf("got preview %+v %v", list, err)
	}
	gc := GCOptions{Grace: time.Hour, DryRun: true}
	if r, err := g.GC(t.Context(), gc); err != nil || r.RemovedTags != 1 {
		t.Errorf("dry run: got %+v %v", r, err)
	}
	c.want(c.do("GET", "/v2/a/manifests/pr-1", nil), 200, "")
	gc.DryRun = false
	if r, err := g.GC(t.Context(), gc); err != nil || r.RemovedTags != 1 {
		t.Errorf("got %+v %v", r, err)
	}
	if got := tagsOf(c, "a", ""); !slices.Equal(got, []string{"main", "pr-2"}) {
		t.Errorf("got tags %v", got)
	}
	c.want(c.do("GET", "/v2/b/manifests/pr-1", nil), 200, "")
	infos, err := g.store.TagInfos(context.Background(), "a")
	if err != nil || len(infos) != 2 {
		t.Fatalf("got %v %v", infos, err)
	}
	if err := g.store.RemoveTag(t.Context(), "a", "pr-2", "another version"); !errdefs.IsNotFound(err) {
		t.Errorf("a tag that changed was removed (%v)", err)
	}
	if a := c.want(c.do("GET", "/v2/a/manifests/pr-2", nil), 200, ""); a.header.Get("Docker-Content-Digest") != last.Digest.String() {
		t.Error("other manifest")
	}
}

// TestRulesRoundTrip: rules are read as they were written.
func TestRulesRoundTrip(t *testing.T) {
	_, _, o := rulesServer(t, Rules{{Repositories: "a", MaxAge: Duration(90 * time.Minute)}})
	rs, err := ReadRules(t.Context(), o)
	if err != nil || len(rs) != 1 || rs[0].MaxAge != Duration(90*time.Minute) {
		t.Fatalf("got %+v %v", rs, err)
	}
	if b, err := json.Marshal(rs); err != nil || string(b) != `[{"repositories":"a","maxAge":"1h30m0s"}]` {
		t.Errorf("got %s %v", b, err)
	}
}
