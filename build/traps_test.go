package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teu-dev/teu/cache/image"
)

// TestTraps holds what a builder gets wrong that only reads the documentation: what counts for the
// cache and what does not. Those that show in an image are cases of test/differential.
func TestTraps(t *testing.T) {
	const mount = "RUN --mount=source=d,target=/m cat /m/f > /out"
	cases := map[string]struct {
		before, after []string // Dockerfiles; after is before if it is nil
		change        func(b *bench)
		first, second Options
		ran           int // steps of the second build
	}{
		"the time of a file does not count": {before: []string{"FROM busybox", "COPY d /d", "RUN true"}, change: func(b *bench) {
			b.try(os.Chtimes(filepath.Join(b.dir, "d/f"), time.Now(), time.Unix(1e9, 0)))
		}},
		"its mode does": {before: []string{"FROM busybox", "COPY d /d", "RUN true"}, ran: 2, change: func(b *bench) {
			b.try(os.Chmod(filepath.Join(b.dir, "d/f"), 0o600))
		}},
		"its owner does not, in a context": {before: []string{"FROM busybox", "COPY d /d", "RUN true"}, change: func(b *bench) {
			b.try(os.Chown(filepath.Join(b.dir, "d/f"), 77, 77))
		}},
		"nor where it was": {before: []string{"FROM busybox", "COPY d/f /x", "RUN true"}, after: []string{"FROM busybox", "COPY e/f /x", "RUN true"},
			change: func(b *bench) { b.write(map[string]string{"e/f": "text"}) }},
		"what it is called in the end does": {before: []string{"FROM busybox", "COPY d/f /d/", "RUN true"}, after: []string{"FROM busybox", "COPY d/g /d/", "RUN true"}, ran: 2,
			change: func(b *bench) { b.write(map[string]string{"d/g": "text"}) }},
		"a name of a user is looked up in the target": {
			before: []string{"FROM busybox AS s", "RUN true", "FROM s", "COPY --chown=app d/f /x"}, ran: 2,
			after: []string{"FROM busybox AS s", "RUN sed -i s/1000/1001/ /etc/passwd", "FROM s", "COPY --chown=app d/f /x"}},
		"a mount that is only read counts by its content": {before: []string{"FROM busybox", mount}, change: func(b *bench) {
			b.write(map[string]string{"noise": "other", "d/f": "text"})
		}},
		"and reruns with it": {before: []string{"FROM busybox", mount}, ran: 1, change: func(b *bench) { b.write(map[string]string{"d/f": "other"}) }},
		"the address of an added host does not count": {before: []string{"FROM busybox", "RUN true"},
			first: Options{AddHosts: []string{"h=1.2.3.4"}}, second: Options{AddHosts: []string{"h=1.2.3.5"}}},
		"its name does": {before: []string{"FROM busybox", "RUN true"}, ran: 1,
			first: Options{AddHosts: []string{"h=1.2.3.4"}}, second: Options{AddHosts: []string{"i=1.2.3.4"}}},
		"a proxy does not": {before: []string{"FROM busybox", "RUN true"},
			second: Options{Args: map[string]string{"HTTP_PROXY": "http://127.0.0.1:1"}}},
		"an argument that no step declares does not": {before: []string{"FROM busybox", "RUN true"}, second: Options{Args: map[string]string{"A": "b"}}},
		"a declared one does, for all steps behind":  {before: []string{"FROM busybox", "ARG A", "RUN true"}, ran: 1, second: Options{Args: map[string]string{"A": "b"}}},
		"a secret does not": {before: []string{"FROM busybox", "RUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null"},
			first: Options{Secrets: map[string]Secret{"s": {Env: "TRAP_ONE"}}}, second: Options{Secrets: map[string]Secret{"s": {Env: "TRAP_TWO"}}}},
		"limits do not": {before: []string{"FROM busybox", "RUN true"}, second: Options{Limits: map[string]string{"memory": "100000000"}}},
		"the name of a stage does not": {before: []string{"FROM busybox AS a", "RUN echo >/x", "FROM busybox", "COPY --from=a /x /x"},
			after: []string{"FROM busybox AS b", "RUN echo >/x", "FROM busybox", "COPY --from=b /x /x"}},
		"the name of an image does not, its layers do": {before: []string{"FROM busybox", "RUN true"}, after: []string{"FROM other", "RUN true"},
			change: func(b *bench) {
				img, err := b.Store.Images.Get("docker.io/library/busybox:latest")
				b.try(err)
				b.try(b.Store.Images.Put(b.t.Context(), image.Image{Name: "docker.io/library/other:latest", Target: img.Target}))
			}},
		"a step behind one that ran again runs again": {before: []string{"FROM busybox AS r", "RUN head -c9 /dev/urandom | md5sum > /r", "FROM r", "RUN cp /r /copy"}, ran: 2,
			second: Options{NoCacheOf: []string{"r"}}},
		"but not one that only takes what is the same": {before: []string{"FROM busybox AS r", "RUN echo same > /r", "FROM busybox", "COPY --from=r /r /r", "RUN cp /r /copy"}, ran: 1,
			second: Options{NoCacheOf: []string{"r"}}},
		"a file that is ignored does not":              {before: []string{"FROM busybox", "COPY d /d"}, change: func(b *bench) { b.write(map[string]string{"d/x.log": "1"}) }},
		"nor a comment, or the case of an instruction": {before: []string{"FROM busybox", "RUN true"}, after: []string{"# why", "from busybox", "run true"}},
	}
	t.Setenv("TRAP_ONE", "1")
	t.Setenv("TRAP_TWO", "2")
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.write(map[string]string{"d/f": "text", ".dockerignore": "**/*.log\n"})
			b.must(c.first, c.before...)
			if c.change != nil {
				c.change(b)
			}
			after := c.after
			if after == nil {
				after = c.before
			}
			if _, l := b.must(c.second, after...); len(l.ran) != c.ran {
				t.Errorf("ran %q, want %d steps", l.ran, c.ran)
			}
		})
	}
}

func (b *bench) try(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestTrapFreshValuesReachTheEnd is the other side of "runs again": the copy is of what is there now.
func TestTrapFreshValuesReachTheEnd(t *testing.T) {
	b := newBench(t)
	lines := []string{"FROM busybox AS r", "RUN head -c9 /dev/urandom | md5sum > /r", "FROM r", "RUN cp /r /copy"}
	b.must(Options{}, lines...)
	res, _ := b.must(Options{NoCacheOf: []string{"r"}}, lines...)
	var texts []string
	for _, f := range b.files(res) {
		if name, text, _ := strings.Cut(f, " 644 0:0 "); name == "r" || name == "copy" {
			texts = append(texts, text)
		}
	}
	if len(texts) != 2 || texts[0] != texts[1] {
		t.Errorf("the steps saw %q", texts)
	}
}

// TestTrapLayerKeepsLinks: the link between two
// names is kept, which BuildKit loses.
func TestTrapLayerKeepsLinks(t *testing.T) {
	b := newBench(t)
	res, _ := b.must(Options{}, "FROM busybox", "RUN ln /etc/group /etc/group2")
	files := b.files(res)
	if !slices.Contains(files, "etc/group2 644 0:0 -> etc/group") {
		t.Errorf("files %q", files)
	}
}
