package build

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/result"
	"github.com/teu-dev/teu/dockerfile"
	registryclient "github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/server/registry"
)

// A spy is a registry that knows what was asked of it.
type spy struct {
	next http.Handler
	host string

	mu    sync.Mutex
	blobs []string // digests of blobs that were fetched
	sent  int64    // bytes of blobs that were sent
	fail  func(r *http.Request) bool
}

func newSpy(t *testing.T) *spy {
	t.Helper()
	loopback(t)
	reg, err := registry.New(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{next: reg}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	return s
}

func (s *spy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if _, d, ok := strings.Cut(r.URL.Path, "/blobs/"); ok && r.Method == http.MethodGet {
		s.blobs = append(s.blobs, d)
	}
	fail := s.fail != nil && s.fail(r)
	s.mu.Unlock()
	if fail {
		panic(http.ErrAbortHandler)
	}
	if r.Method == http.MethodPatch || r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/") {
		r.Body = &counted{r.Body, s}
	}
	s.next.ServeHTTP(w, r)
}

type counted struct {
	io.ReadCloser
	s *spy
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.s.mu.Lock()
	c.s.sent += int64(n)
	c.s.mu.Unlock()
	return n, err
}

func (s *spy) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs, s.sent = nil, 0
}

func (s *spy) from(kind string, args ...string) CacheRef {
	c := CacheRef{Type: kind, Args: map[string]string{}}
	if kind == "registry" {
		c.Args["ref"] = s.host + "/cache:main"
	}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		c.Args[name] = value
	}
	return c
}

// machine makes a builder on an empty store whose base image is in the registry only.
func machine(t *testing.T, s *spy, files map[string]string) *bench {
	t.Helper()
	b := newBench(t)
	b.write(files)
	return b
}

var multiStage = []string{
	"FROM busybox AS tools", "RUN head -c 100000 /dev/zero > /big", "COPY src /src", "RUN cat /src/* | md5sum > /sum",
	"FROM busybox", "COPY --from=tools /sum /sum", "RUN cat /sum > /out",
}

// TestRemoteCache builds on one machine, and then on empty ones with its cache.
func TestRemoteCache(t *testing.T) {
	files := map[string]string{"src/a": "a", "src/b": "b"}
	for name, c := range map[string]struct {
		to, from func(s *spy, dir string) CacheRef
		tags     func(s *spy) []string
		whole    bool   // all steps are in it
		noCache  []bool // of the builds of the first machine; the last writes to the cache; nil: there is one
	}{
		"registry": {
			to: func(s *spy, _ string) CacheRef { return s.from("registry") }, from: func(s *spy, _ string) CacheRef { return s.from("registry") }, whole: true,
		},
		"registry, zstd, mode=max": {
			to:   func(s *spy, _ string) CacheRef { return s.from("registry", "compression=zstd", "mode=max") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry") }, whole: true,
		},
		"directory": {
			to:   func(s *spy, dir string) CacheRef { return s.from("local", "dest="+dir) },
			from: func(s *spy, dir string) CacheRef { return s.from("local", "src="+dir) }, whole: true,
		},
		"registry, mode=min": {
			to: func(s *spy, _ string) CacheRef { return s.from("registry", "mode=min") }, from: func(s *spy, _ string) CacheRef { return s.from("registry") },
		},
		"inline": {
			to:   func(s *spy, _ string) CacheRef { return s.from("inline") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry", "ref="+s.host+"/app:1") },
			tags: func(s *spy) []string { return []string{s.host + "/app:1"} },
		},
		"registry, mode=max, no cache": {
			to:   func(s *spy, _ string) CacheRef { return s.from("registry", "mode=max") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry") }, whole: true, noCache: []bool{false, true},
		},
		"registry, mode=min, no cache": {
			to:   func(s *spy, _ string) CacheRef { return s.from("registry", "mode=min") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry") }, noCache: []bool{false, true},
		},
		"inline, no cache": {
			to:   func(s *spy, _ string) CacheRef { return s.from("inline") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry", "ref="+s.host+"/app:1") },
			tags: func(s *spy) []string { return []string{s.host + "/app:1"} }, noCache: []bool{false, true},
		},
		"inline, after a build without cache": {
			to:   func(s *spy, _ string) CacheRef { return s.from("inline") },
			from: func(s *spy, _ string) CacheRef { return s.from("registry", "ref="+s.host+"/app:1") },
			tags: func(s *spy) []string { return []string{s.host + "/app:1"} }, noCache: []bool{false, true, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpy(t)
			dir := filepath.Join(t.TempDir(), "cache")
			one := machine(t, s, files)
			one.t = t
			o := Options{CacheTo: []CacheRef{c.to(s, dir)}}
			if c.tags != nil {
				o.Tags, o.Push = c.tags(s), true
			}
			if n := len(c.noCache); n > 0 {
				for _, noCache := range c.noCache[:n-1] {
					one.must(Options{NoCache: noCache}, multiStage...)
				}
				o.NoCache = c.noCache[n-1]
			}
			first, _ := one.must(o, multiStage...)
			two := machine(t, s, files)
			two.t = t
			s.reset()
			second, l := two.must(Options{CacheFrom: []CacheRef{c.from(s, dir)}}, multiStage...)
			if len(l.ran) > 0 { // nor what is no part of the image and so in no cache of that kind
				t.Errorf("the second machine ran %q", l.ran)
			}
			if len(l.cached) != len(multiStage)-2 {
				t.Errorf("it tells of %q only", l.cached)
			}
			a, b := one.image(first), two.image(second)
			if diff := cmp.Diff(a.Config.RootFS.DiffIDs, b.Config.RootFS.DiffIDs); diff != "" {
				t.Errorf("layers (-first +second):\n%s", diff)
			}
			if c.whole && c.tags == nil && !strings.HasPrefix(name, "dir") && len(s.blobs) != 2 {
				t.Errorf("%d blobs were fetched for an image with 2 new layers: %q", len(s.blobs), s.blobs)
			}
			// What was fetched is in the local cache too.
			if _, l := two.must(Options{}, multiStage...); c.whole && slices.Contains(l.ran, multiStage[6]) {
				t.Errorf("without the shared cache it ran %q", l.ran)
			}
		})
	}
}

// TestInlineCacheOfPlatforms reads what each image of an index tells of its own steps.
func TestInlineCacheOfPlatforms(t *testing.T) {
	s := newSpy(t)
	lines := []string{"FROM --platform=$BUILDPLATFORM busybox AS make", "ARG TARGETARCH", "RUN echo $TARGETARCH >/out", "FROM scratch", "COPY --from=make /out /"}
	o := Options{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}}
	first := o
	first.CacheTo, first.Tags, first.Push = []CacheRef{s.from("inline")}, []string{s.host + "/app:1"}, true
	one := machine(t, s, nil)
	before, _ := one.must(first, lines...)
	o.CacheFrom = []CacheRef{s.from("registry", "ref="+s.host+"/app:1")}
	o.CacheTo = first.CacheTo
	two := machine(t, s, nil)
	after, l := two.must(o, lines...)
	if len(l.ran) > 0 {
		t.Errorf("the second machine ran %q", l.ran)
	}
	if diff := cmp.Diff(one.image(before).Config, two.image(after).Config); diff != "" {
		t.Errorf("configs (-first +second):\n%s", diff)
	}
}

// TestRemoteCacheMovesOnlyWhatIsNeeded changes one file on a machine with an empty store.
func TestRemoteCacheMovesOnlyWhatIsNeeded(t *testing.T) {
	s := newSpy(t)
	base := s.host + "/base:1"
	lines := slices.Clone(multiStage)
	lines[0], lines[4] = "FROM "+base+" AS tools", "FROM "+base
	one := machine(t, s, map[string]string{"src/a": "a"})
	one.must(Options{Tags: []string{base}, Push: true}, "FROM busybox", "RUN head -c 5000 /dev/urandom > /base")
	one.must(Options{CacheTo: []CacheRef{s.from("registry")}}, lines...)

	// Nothing changed, and the image is only pushed: no layer moves at all, not even the base image's.
	two := machine(t, s, map[string]string{"src/a": "a"})
	s.reset()
	res, l := two.must(Options{CacheFrom: []CacheRef{s.from("registry")}, Tags: []string{s.host + "/app:2"}, Push: true}, lines...)
	layers := map[string]bool{}
	for _, d := range two.manifest(res).Layers {
		layers[d.Digest.String()] = true
	}
	for _, d := range s.blobs {
		if layers[d] {
			t.Errorf("the layer %s was fetched", d)
		}
	}
	if len(l.ran) != 0 || s.sent > 10000 {
		t.Errorf("ran %q and sent %d bytes", l.ran, s.sent)
	}
	three := machine(t, s, nil)
	if res, _ := three.must(Options{}, "FROM "+s.host+"/app:2", "RUN cat /out > /copy"); len(three.image(res).Manifest.Layers) != 5 {
		t.Error("the image that was pushed without its layers being here is not whole")
	}
}

// TestManyWritersOfOneCache lets builders write to one reference at the same time, and looks for what
// each of them wrote.
func TestManyWritersOfOneCache(t *testing.T) {
	s := newSpy(t)
	const builders = 20
	var wg sync.WaitGroup
	one := newBench(t)
	for i := range builders {
		b := one.again()
		b.dir = filepath.Join(one.dir, fmt.Sprint(i))
		b.write(map[string]string{"f": fmt.Sprint("file ", i)})
		wg.Go(func() {
			_, _, err := b.build(Options{CacheTo: []CacheRef{s.from("registry")}}, "FROM busybox", "COPY f /f", fmt.Sprintf("LABEL n=%d", i))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	other := newBench(t)
	for i := range builders {
		other.write(map[string]string{"f": fmt.Sprint("file ", i)})
		if _, l := other.must(Options{CacheFrom: []CacheRef{s.from("registry")}}, "FROM busybox", "COPY f /f"); len(l.ran) != 0 {
			t.Errorf("builder %d's entry is lost: ran %q", i, l.ran)
		}
	}
}

// TestBrokenRemoteCache builds with caches that promise what they do not keep: the build warns, and
// makes what the Dockerfile says.
func TestBrokenRemoteCache(t *testing.T) {
	lines := []string{"FROM busybox", "COPY f /f", "RUN cat /f > /out", "RUN cat /out /out > /twice"}
	for name, broken := range map[string]func(t *testing.T, s *spy, one *bench){
		"entries that are no entries": func(t *testing.T, s *spy, _ *bench) {
			s.rewrite(t, func(m *ocispec.Manifest) { m.Annotations = map[string]string{"dev.teu.buildcache.entry": "{"} })
		},
		"layers that are other layers": func(t *testing.T, s *spy, _ *bench) {
			s.rewrite(t, func(m *ocispec.Manifest) {
				text := m.Annotations["dev.teu.buildcache.entry"]
				var e map[string]any
				if err := json.Unmarshal([]byte(text), &e); err != nil {
					t.Fatal(err)
				}
				outputs := e["outputs"].([]any)[0].([]any)
				outputs[len(outputs)-1].(map[string]any)["diffID"] = "sha256:" + strings.Repeat("1", 64)
				b, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				m.Annotations["dev.teu.buildcache.entry"] = string(b)
			})
		},
		"layers of a base that nobody uses": func(t *testing.T, s *spy, _ *bench) {
			s.rewrite(t, func(m *ocispec.Manifest) {
				m.Annotations["dev.teu.buildcache.entry"] = fmt.Sprintf(`{"canonical":"sha256:%064d","outputs":[[{"diffID":"sha256:%064d"}]]}`, 1, 2)
			})
		},
		"blobs that are gone": func(t *testing.T, s *spy, _ *bench) {
			s.fail = func(r *http.Request) bool {
				return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/cache/blobs/")
			}
		},
		"a registry that drops connections": func(t *testing.T, s *spy, _ *bench) {
			s.fail = func(*http.Request) bool { return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpy(t)
			one := newBench(t)
			one.t = t
			one.write(map[string]string{"f": "text"})
			first, _ := one.must(Options{CacheTo: []CacheRef{s.from("registry")}}, lines...)
			broken(t, s, one)
			two := newBench(t)
			two.t = t
			two.write(map[string]string{"f": "text"})
			var warned []string
			o := Options{CacheFrom: []CacheRef{s.from("registry")}, Warn: func(w dockerfile.Warning) { warned = append(warned, w.Text) }}
			second, _ := two.must(o, lines...)
			if diff := cmp.Diff(one.files(first), two.files(second)); diff != "" {
				t.Errorf("files (-without +with a broken cache):\n%s", diff)
			}
			if len(warned) == 0 {
				t.Error("nobody was warned")
			}
			s.fail = nil
			if _, l := two.must(Options{}, lines...); len(l.ran) != 0 {
				t.Errorf("the next build ran %q", l.ran)
			}
		})
	}
}

// TestCacheThatNamesTheStepsOfOthers: entries say that they are the results of a step that they were not looked up
// for, which a build without that cache must not believe.
func TestCacheThatNamesTheStepsOfOthers(t *testing.T) {
	for name, change := range map[string]func(entry map[string]any, of string){
		"as another name":   func(e map[string]any, of string) { e["plain"] = []string{of} },
		"as the record":     func(e map[string]any, of string) { e["canonical"] = of },
		"as another's name": func(e map[string]any, of string) { e["plain"] = []string{of, e["canonical"].(string)} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpy(t)
			victim := newBench(t)
			victim.t = t
			theirs := []string{"FROM busybox", "RUN echo good > /f"}
			victim.must(Options{}, theirs...)
			var of string
			err := victim.Store.Results.Walk(t.Context(), func(r result.Record) error {
				if strings.Contains(r.Description, "good") {
					of = r.Key.String()
				}
				return nil
			})
			if err != nil || of == "" {
				t.Fatalf("the key %q, %v", of, err)
			}
			one := newBench(t)
			one.t = t
			mine := []string{"FROM busybox", "RUN echo evil > /f"}
			one.must(Options{CacheTo: []CacheRef{s.from("registry")}}, mine...)
			s.rewrite(t, func(m *ocispec.Manifest) {
				var e map[string]any
				if err := json.Unmarshal([]byte(m.Annotations["dev.teu.buildcache.entry"]), &e); err != nil {
					t.Fatal(err)
				}
				change(e, of)
				b, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				m.Annotations["dev.teu.buildcache.entry"] = string(b)
			})
			if _, l := victim.must(Options{CacheFrom: []CacheRef{s.from("registry")}}, mine...); len(l.ran) != 0 {
				t.Fatalf("it ran %q: the attack was not tried", l.ran)
			}
			img, l := victim.must(Options{}, theirs...)
			if got := strings.Join(victim.files(img), " "); !strings.Contains(got, "good") || len(l.ran) != 0 {
				t.Errorf("the files are %q, it ran %q", got, l.ran)
			}
		})
	}
}

// rewrite changes every entry of the cache.
func (s *spy) rewrite(t *testing.T, change func(*ocispec.Manifest)) {
	t.Helper()
	named, err := reference.ParseNormalizedNamed(s.host + "/cache")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registryclient.New(registryclient.Options{}).Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := repo.Tags(t.Context())
	if err != nil || len(tags) == 0 {
		t.Fatalf("tags %q, %v", tags, err)
	}
	for _, tag := range tags {
		_, data, err := repo.Manifest(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		if data, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := repo.Tag(t.Context(), d, tag, data); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCacheMountsTravel fills a cache mount on one machine and uses it on others.
func TestCacheMountsTravel(t *testing.T) {
	s := newSpy(t)
	with := s.from("registry", "mounts=true")
	fill := "RUN --mount=type=cache,target=/c head -c 8000000 /dev/urandom > /c/big; mkdir -p /c/dir; echo one > /c/dir/small"
	one := newBench(t)
	one.must(Options{CacheTo: []CacheRef{with}}, "FROM busybox", fill)
	if s.sent < 8000000 {
		t.Fatalf("only %d bytes were sent", s.sent)
	}
	s.reset()
	two := newBench(t)
	change := "RUN --mount=type=cache,target=/c ls -l /c/big | cut -d' ' -f5; cat /c/dir/small; echo two >> /c/dir/small; wc -c < /c/big"
	_, l := two.must(Options{CacheFrom: []CacheRef{with}, CacheTo: []CacheRef{with}}, "FROM busybox", change)
	if got := l.output.String(); !strings.Contains(got, "one") || !strings.Contains(got, "8000000") {
		t.Errorf("the second machine saw %q", got)
	}
	if s.sent > 4000000 {
		t.Errorf("%d bytes were sent for a small change", s.sent)
	}
	three := newBench(t)
	_, l = three.must(Options{CacheFrom: []CacheRef{with}}, "FROM busybox", "RUN --mount=type=cache,target=/c cat /c/dir/small")
	if got := l.output.String(); got != "one\ntwo\n" {
		t.Errorf("the third machine saw %q", got)
	}
}

// TestCacheFromOnePlaceToAnother copies a cache, and does without what it turns out not to have.
func TestCacheFromOnePlaceToAnother(t *testing.T) {
	lines := []string{"FROM busybox", "COPY f /f", "RUN cat /f > /out"}
	s := newSpy(t)
	from, to := s.from("registry"), s.from("registry", "ref="+s.host+"/other:x")
	one := newBench(t)
	one.write(map[string]string{"f": "text"})
	one.must(Options{CacheTo: []CacheRef{from}}, lines...)

	two := newBench(t)
	two.write(map[string]string{"f": "text"})
	two.must(Options{CacheFrom: []CacheRef{from}, CacheTo: []CacheRef{to}}, lines...)
	three := newBench(t)
	three.write(map[string]string{"f": "text"})
	if _, l := three.must(Options{CacheFrom: []CacheRef{to}}, lines...); len(l.ran) != 0 {
		t.Errorf("with the copy of the cache it ran %q", l.ran)
	}

	s.fail = func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/cache/blobs/")
	}
	third := s.from("registry", "ref="+s.host+"/third:x")
	four := newBench(t)
	four.write(map[string]string{"f": "text"})
	four.must(Options{CacheFrom: []CacheRef{from}, CacheTo: []CacheRef{third}}, lines...)
	s.fail = nil
	five := newBench(t)
	five.write(map[string]string{"f": "text"})
	if _, l := five.must(Options{CacheFrom: []CacheRef{third}}, lines...); len(l.ran) != 0 {
		t.Errorf("with the cache of a build whose own cache was broken it ran %q", l.ran)
	}
}
