package build

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/teu-dev/teu/build/provenance"
)

// TestSourcePolicy: rules hold for every source, however a build comes to it.
func TestSourcePolicy(t *testing.T) {
	loopback(t)
	b := newBench(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(r.URL.Path)) }))
	defer web.Close()
	policy := func(rules ...string) Policy {
		p, err := ReadPolicy(strings.NewReader(`{"rules":[` + strings.ReplaceAll(strings.Join(rules, ","), "WEB", web.URL) + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	rule := func(action, from, to string) string {
		r := `{"action":"` + action + `","selector":{"identifier":"` + from + `"}`
		if to != "" {
			r += `,"updates":{"identifier":"` + to + `"}`
		}
		return r + "}"
	}
	lines := func(s ...string) []string {
		return strings.Split(strings.ReplaceAll(strings.Join(s, "\n"), "WEB", web.URL), "\n")
	}
	b.write(map[string]string{"f": "file"})

	deny := policy(rule("DENY", "*", ""), rule("ALLOW", "local://*", ""), rule("ALLOW", "docker-image://docker.io/library/busybox:*", ""))
	b.must(Options{Policy: deny}, "FROM busybox", "COPY f /")
	for name, dockerfile := range map[string][]string{
		"FROM":                    lines("FROM other", "RUN true"),
		"FROM by digest":          lines("FROM other@sha256:"+strings.Repeat("0", 64), "RUN true"),
		"COPY --from":             lines("FROM scratch", "COPY --from=other /bin/sh /"),
		"a mount":                 lines("FROM busybox", "RUN --mount=from=other,target=/m true"),
		"ADD of a URL":            lines("FROM scratch", "ADD WEB/f /"),
		"ADD of a git repository": lines("FROM scratch", "ADD WEB/r.git /"),
		"a frontend":              lines("# syntax=docker/dockerfile:1", "FROM scratch", "ADD WEB/f /"),
	} {
		_, _, err := b.build(Options{Policy: deny}, dockerfile...)
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "denied by policy") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, o := range map[string]Options{
		"a context from the web":           {Context: web.URL + "/context.tar"},
		"a named context":                  {Contexts: map[string]string{"c": web.URL + "/c.tar"}},
		"a named context that is an image": {Contexts: map[string]string{"c": "docker-image://other"}},
	} {
		o.Policy = deny
		if _, _, err := b.build(o, "FROM scratch", "COPY --from=c / /"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}

	// What takes the place of a source is what is built, and what is stated of it.
	res, _ := b.must(Options{
		Policy: policy(
			rule("CONVERT", "docker-image://docker.io/library/other:*", "docker-image://docker.io/library/busybox:latest"), rule("CONVERT", "WEB/a", "WEB/b"),
		),
		Provenance: &provenance.Options{},
	}, lines("FROM other:1", "ADD WEB/a /file", "RUN true")...)
	image, _, st := b.statement(res.Target)
	if diff := cmp.Diff([]string{"file 600 0:0 /b"}, b.files(Result{Target: image})); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	var used []string
	for _, d := range st.Predicate.BuildDefinition.ResolvedDependencies {
		used = append(used, d.URI)
	}
	if len(used) != 2 || !strings.Contains(used[0]+used[1], "docker/busybox@latest") || !strings.Contains(used[0]+used[1], web.URL+"/b") {
		t.Errorf("what was used: %q", used)
	}

	// A named context may become a directory that the build was given.
	b.write(map[string]string{"dir/g": "g"})
	contexts := map[string]string{"c": "docker-image://other", "d": filepath.Join(b.dir, "dir")}
	convert := policy(rule("CONVERT", "docker-image://docker.io/library/other:*", "local://d"))
	res, _ = b.must(Options{Policy: convert, Contexts: contexts}, "FROM scratch", "COPY --from=c g /")
	if diff := cmp.Diff([]string{"g 644 0:0 g"}, b.files(res)); diff != "" {
		t.Errorf("files of a directory in place of an image (-want +got):\n%s", diff)
	}
	if _, _, err := b.build(Options{Policy: convert, Contexts: contexts}, "FROM other", "COPY f /"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a directory in place of a base image: got %v", err)
	}
}
