package build

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/statefile"
)

// A round is one build of a series on one cache, and the steps it has to run.
type round struct {
	files   map[string]string // written before it
	options Options
	lines   []string
	ran     []string
}

func (b *bench) rounds(t *testing.T, list []round) {
	t.Helper()
	for i, r := range list {
		b.write(r.files)
		_, l := b.must(r.options, r.lines...)
		slices.Sort(l.ran)
		slices.Sort(r.ran)
		if diff := cmp.Diff(r.ran, l.ran); diff != "" {
			t.Errorf("build %d ran (-want +got):\n%s", i+1, diff)
		}
	}
}

// TestCacheHits says which steps run when something changes that they depend on, or do not.
func TestCacheHits(t *testing.T) {
	two := func(one, other string) []string {
		return []string{
			"FROM busybox AS " + one, "COPY a /a", "RUN cat /a > /x",
			"FROM busybox AS " + other, "COPY b /b", "RUN cat /b > /y",
			"FROM busybox", "COPY --from=" + one + " /x /", "COPY --from=" + other + " /y /", "RUN cat /x /y > /z",
		}
	}
	all := []string{"COPY a /a", "RUN cat /a > /x", "COPY b /b", "RUN cat /b > /y", "COPY --from=one /x /", "COPY --from=other /y /", "RUN cat /x /y > /z"}
	chain := []string{"FROM busybox", "COPY src/*.c /src/", "RUN cat /src/* > /out"}
	for name, list := range map[string][]round{
		"renaming stages": {
			{files: map[string]string{"a": "a", "b": "b"}, lines: two("one", "other"), ran: all},
			{lines: two("first", "second")},
		},
		"reordering stages": {
			{files: map[string]string{"a": "a", "b": "b"}, lines: two("one", "other"), ran: all},
			{lines: append(append(slices.Clone(two("one", "other")[3:6]), two("one", "other")[:3]...), two("one", "other")[6:]...)},
		},
		"one stage of two changes": {
			{files: map[string]string{"a": "a", "b": "b"}, lines: two("one", "other"), ran: all},
			{files: map[string]string{"a": "A"}, lines: two("one", "other"),
				ran: []string{"COPY a /a", "RUN cat /a > /x", "COPY --from=one /x /", "COPY --from=other /y /", "RUN cat /x /y > /z"}},
		},
		"a file no step selects": {
			{files: map[string]string{"src/a.c": "a"}, lines: chain, ran: chain[1:]},
			{files: map[string]string{"src/README": "x", "other": "y"}, lines: chain},
			{files: map[string]string{"src/b.c": "b"}, lines: chain, ran: chain[1:]},
		},
		"a file is touched but stays the same": {
			{files: map[string]string{"src/a.c": "a"}, lines: chain, ran: chain[1:]},
			{files: map[string]string{"src/a.c": "a"}, lines: chain},
		},
		"back to what was": {
			{files: map[string]string{"src/a.c": "a"}, lines: chain, ran: chain[1:]},
			{files: map[string]string{"src/a.c": "b"}, lines: chain, ran: chain[1:]},
			{files: map[string]string{"src/a.c": "a"}, lines: chain},
		},
		"another context file name, equal content and target": {
			{files: map[string]string{"x/f": "1", "y/f": "1"}, lines: []string{"FROM busybox", "COPY x/f /f", "RUN cat /f"}, ran: []string{"COPY x/f /f", "RUN cat /f"}},
			{lines: []string{"FROM busybox", "COPY y/f /f", "RUN cat /f"}},
		},
		"arguments count from where they are declared and only if used in a step's environment": {
			{options: Options{Args: map[string]string{"V": "1"}}, lines: []string{"FROM busybox", "RUN echo before", "ARG V", "RUN echo $V"}, ran: []string{"RUN echo before", "RUN echo 1"}},
			{options: Options{Args: map[string]string{"V": "2"}}, lines: []string{"FROM busybox", "RUN echo before", "ARG V", "RUN echo $V"}, ran: []string{"RUN echo 2"}},
			{options: Options{Args: map[string]string{"V": "1", "HTTP_PROXY": "x"}}, lines: []string{"FROM busybox", "RUN echo before", "ARG V", "RUN echo $V"}},
		},
		"metadata between steps": {
			{lines: []string{"FROM busybox", "RUN echo 1", "LABEL a=b"}, ran: []string{"RUN echo 1"}},
			{lines: []string{"FROM busybox", "LABEL c=d", "RUN echo 1", "EXPOSE 80"}},
		},
		"no-cache": {
			{lines: chain, files: map[string]string{"src/a.c": "a"}, ran: chain[1:]},
			{options: Options{NoCache: true}, lines: chain, ran: chain[1:]},
			{lines: chain},
		},
		"no-cache of one stage": {
			{files: map[string]string{"a": "a", "b": "b"}, lines: two("one", "other"), ran: all},
			{options: Options{NoCacheOf: []string{"one"}}, lines: two("one", "other"), ran: []string{"COPY a /a", "RUN cat /a > /x"}},
		},
		"a file is copied whatever is excluded": {
			{files: map[string]string{"a": "a"}, lines: []string{"FROM busybox", "COPY --exclude=* a /x/"}, ran: []string{"COPY --exclude=* a /x/"}},
			{files: map[string]string{"a": "A"}, lines: []string{"FROM busybox", "COPY --exclude=* a /x/"}, ran: []string{"COPY --exclude=* a /x/"}},
			{files: map[string]string{"ab": "A"}, lines: []string{"FROM busybox", "COPY --exclude=** a? /x/"}, ran: []string{"COPY --exclude=** a? /x/"}},
			{files: map[string]string{"ab": "B"}, lines: []string{"FROM busybox", "COPY --exclude=** a? /x/"}, ran: []string{"COPY --exclude=** a? /x/"}},
		},
		"a bind mount counts by content": {
			{files: map[string]string{"a": "a", "b": "b"}, lines: []string{"FROM busybox", "RUN --mount=type=bind,source=a,target=/a cat /a"}, ran: []string{"RUN --mount=type=bind,source=a,target=/a cat /a"}},
			{files: map[string]string{"b": "B"}, lines: []string{"FROM busybox", "RUN --mount=type=bind,source=a,target=/a cat /a"}},
			{files: map[string]string{"a": "A"}, lines: []string{"FROM busybox", "RUN --mount=type=bind,source=a,target=/a cat /a"}, ran: []string{"RUN --mount=type=bind,source=a,target=/a cat /a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.t = t
			b.rounds(t, list)
		})
	}
}

// again opens the store of b once more, as another process would.
func (b *bench) again() *bench {
	b.t.Helper()
	s, err := cache.Open(b.Store.Root(), b.Store.RunRoot())
	if err != nil {
		b.t.Fatal(err)
	}
	builder := *b.Builder
	builder.Store = s
	return &bench{Builder: &builder, t: b.t, dir: b.dir}
}

// together runs a build of two processes' benches at once, and returns what their commands wrote, in order.
func (b *bench) together(build func(name string, other *bench) (Result, *log, error)) (wrote []string) {
	b.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		other := b.again()
		wg.Go(func() {
			_, l, err := build(name, other)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.t.Error(err)
			}
			wrote = append(wrote, strings.TrimSpace(l.output.String()))
		})
	}
	wg.Wait()
	slices.Sort(wrote)
	return wrote
}

// TestMissingIsNotCached removes a directory of which nothing was copied.
func TestMissingIsNotCached(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"d/f": "f"})
	const whole = "RUN --mount=target=/c true" // without it, what is not copied is no part of the context
	all := []string{"COPY --exclude=* d /x/", "COPY d/z* /x/", "COPY d/f/* /x/"}
	for _, line := range all {
		b.must(Options{}, "FROM busybox", line, whole)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "d")); err != nil {
		t.Fatal(err)
	}
	for _, line := range all {
		if _, _, err := b.build(Options{}, "FROM busybox", line, whole); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s without the directory: %v, want not found", line, err)
		}
		if _, _, err := b.build(Options{NoCache: true}, "FROM busybox", line, whole); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s without the directory and without the cache: %v, want not found", line, err)
		}
	}
}

// TestStoresShareRunningSteps holds that of several builds at the same time one runs a step.
func TestStoresShareRunningSteps(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 0.3; echo 1 > /a\nRUN sleep 0.2; echo 2 > /b\n"})
	var mu sync.Mutex
	var ran []string
	var wg sync.WaitGroup
	for range 4 {
		other := b.again()
		wg.Go(func() {
			_, l, err := other.build(Options{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			ran = append(ran, l.ran...)
		})
	}
	wg.Wait()
	if len(ran) != 2 {
		t.Errorf("the builds together ran %q, want each step once", ran)
	}
}

// TestCacheMountSharing runs two builds at once that write to one cache mount.
func TestCacheMountSharing(t *testing.T) {
	// A step leaves a mark, waits long enough for the other to come, and counts marks.
	const step = "RUN --mount=type=cache,target=/c,sharing=%s touch /c/$(cat /proc/sys/kernel/random/uuid); " +
		"for i in $(seq 100); do [ $(ls /c | wc -l) -ge 2 ] && break; sleep 0.01; done; echo \"saw $(ls /c | wc -l)\" # %s"
	for sharing, want := range map[string][]string{
		"shared":  {"saw 2", "saw 2"}, // both at the same time
		"private": {"saw 1", "saw 1"}, // a directory each
		"locked":  {"saw 1", "saw 2"}, // one after the other
	} {
		t.Run(sharing, func(t *testing.T) {
			b := newBench(t)
			b.t = t
			saw := b.together(func(name string, other *bench) (Result, *log, error) {
				other.dir = filepath.Join(b.dir, name)
				if err := os.MkdirAll(other.dir, 0o755); err != nil {
					return Result{}, &log{}, err
				}
				return other.build(Options{}, "FROM busybox", fmt.Sprintf(step, sharing, name))
			})
			if diff := cmp.Diff(want, saw); diff != "" {
				t.Errorf("steps with a %s cache mount (-want +got):\n%s", sharing, diff)
			}
		})
	}
}

// TestLockedCacheMountsInAnyOrder runs steps that name the same two locked cache mounts, each in another order, at the
// moment when one of the two comes free.
func TestLockedCacheMountsInAnyOrder(t *testing.T) {
	b := newBench(t)
	step := func(first, second, name string) string {
		const mount = "--mount=type=cache,sharing=locked,id=%s,target=/%d " // a definition has them by target
		return "RUN " + fmt.Sprintf(mount, first, 1) + fmt.Sprintf(mount, second, 2) + "echo " + name
	}
	b.must(Options{}, "FROM busybox", step("a", "b", "first"))
	mounts, err := b.mounts().CacheMounts()
	if err != nil || len(mounts) != 2 {
		t.Fatalf("cache mounts %v, %v", mounts, err)
	}
	locks := map[string]string{}
	for _, m := range mounts {
		locks[path.Base(m.ID)] = filepath.Join(b.Store.Root(), "build/cache-mounts", m.Key, "0.lock")
	}
	unlock, err := statefile.Lock(t.Context(), locks["a"], statefile.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		name := fmt.Sprint("step", i)
		other := b.again()
		other.dir = filepath.Join(b.dir, name)
		if err := os.MkdirAll(other.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, _, err := other.buildCtx(ctx, Options{}, "FROM busybox", step(order[0], order[1], name)); err != nil {
				t.Errorf("mounting %v: %v", order, err)
			}
		})
		for waiting(t, locks["a"])+waiting(t, locks["b"]) <= i {
			if ctx.Err() != nil {
				t.Fatal("no step waits")
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

// TestFailingStepOfManyBuilds: of several builds with a step that fails, those that waited for the first to run it run it
// at the same time, not one after another, and each has its output.
func TestFailingStepOfManyBuilds(t *testing.T) {
	b := newBench(t)
	b.must(Options{}, "FROM busybox", "RUN --mount=type=cache,id=runs,target=/c touch /c/runs")
	const others = 3
	step := fmt.Sprintf(`RUN --mount=type=cache,id=runs,target=/c echo a run >>/c/runs; echo the output; n=1; i=0; [ -e /c/waiting ] && n=%d; \
		while [ ! -e /c/waiting -o $(wc -l </c/runs) -lt $n ]; do i=$((i+1)); [ $i = 2000 ] && exit 4; usleep 10000; done; exit 3`, 1+others)
	mounts, err := b.mounts().CacheMounts()
	if err != nil || len(mounts) != 1 {
		t.Fatalf("cache mounts %v, %v", mounts, err)
	}
	dir := filepath.Join(b.Store.Root(), "build/cache-mounts", mounts[0].Key, "0")
	if err := os.WriteFile(filepath.Join(b.dir, "Dockerfile"), []byte("FROM busybox\n"+step+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	run := func() {
		other := b.again()
		wg.Go(func() {
			_, l, err := other.build(Options{})
			if err == nil || !strings.Contains(err.Error(), "exit code: 3") || !strings.Contains(l.output.String(), "the output") {
				t.Errorf("a build ended with %v, its step printed %q", err, l.output.String())
			}
		})
	}
	run()
	runs := func() int {
		text, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err != nil {
			t.Error(err)
		}
		return strings.Count(string(text), "a run")
	}
	for runs() == 0 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	for range others {
		run()
	}
	locks, err := filepath.Glob(filepath.Join(b.Store.Root(), "results/locks/*"))
	if err != nil || len(locks) == 0 {
		t.Fatalf("locks %v, %v", locks, err)
	}
	for waits := 0; waits < others && !t.Failed(); time.Sleep(time.Millisecond) {
		waits = 0
		for _, l := range locks {
			waits += waiting(t, l)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "waiting"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if n := runs(); n != 1+others {
		t.Errorf("the step ran %d times, want %d", n, 1+others)
	}
}

// waiting returns how many wait for the lock path.
func waiting(t *testing.T, path string) (n int) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "->") && strings.Contains(line, fmt.Sprintf(":%d ", st.Ino)) {
			n++
		}
	}
	return n
}

// TestBuildsWithoutTheCacheAtOnce holds that builds which ignore the cache do not wait for each other: none of them
// takes what another has made.
func TestBuildsWithoutTheCacheAtOnce(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"Dockerfile": "FROM busybox\n" +
		"RUN --mount=type=cache,target=/c touch /c/$(cat /proc/sys/kernel/random/uuid); " +
		"for i in $(seq 1000); do [ $(ls /c | wc -l) -ge 2 ] && break; sleep 0.01; done; echo \"saw $(ls /c | wc -l)\"\n"})
	saw := b.together(func(_ string, other *bench) (Result, *log, error) { return other.build(Options{NoCache: true}) })
	if diff := cmp.Diff([]string{"saw 2", "saw 2"}, saw); diff != "" {
		t.Errorf("steps of two builds (-want +got):\n%s", diff)
	}
}

// TestPrune holds what the build cache tells of itself and what pruning takes from it.
func TestPrune(t *testing.T) {
	b := newBench(t)
	b.must(Options{}, "FROM busybox", "RUN head -c 3000000 /dev/zero > /old")
	time.Sleep(10 * time.Millisecond) // so that their times differ
	b.must(Options{}, "FROM busybox", "RUN head -c 2000000 /dev/zero > /new", "RUN --mount=type=cache,target=/c head -c 1000000 /dev/zero > /c/f")
	images, err := b.Store.Images.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images { // those without a name
		if img.Name == "" {
			if err := b.Store.Images.DeleteDangling(t.Context(), img.Target.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := func() (names []string, total int64) {
		entries, err := b.Cache(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			_, step, _ := strings.Cut(e.Description, "] ")
			if e.Type == CacheMount {
				step = "mount"
			}
			names, total = append(names, step), total+e.Size
		}
		return names, total
	}
	names, total := list()
	if len(names) != 4 || !strings.Contains(names[0], "/old") || total < 6000000 || total > 6200000 {
		t.Fatalf("the cache is %q with %d bytes", names, total)
	}
	gone, err := b.Prune(t.Context(), PruneOptions{Keep: 4000000, DryRun: true})
	if err != nil || len(gone) != 1 || !strings.Contains(gone[0].Description, "/old") {
		t.Errorf("keeping 4 MB takes %v, %v", gone, err)
	}
	layers := func() (n int) {
		if err := b.Store.Layers.List(t.Context(), func(layer.Info) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	all := layers()
	if _, err := b.Prune(t.Context(), PruneOptions{Keep: 4000000, Collected: true}); err != nil {
		t.Fatal(err)
	}
	if n := layers(); n >= all {
		t.Errorf("%d of %d layers are there after one was forgotten", n, all)
	}
	if names, total = list(); len(names) != 3 || total > 4000000 {
		t.Errorf("after keeping 4 MB: %q with %d bytes", names, total)
	}
	if _, l := b.must(Options{}, "FROM busybox", "RUN head -c 2000000 /dev/zero > /new"); len(l.ran) != 0 {
		t.Errorf("what was used last is gone: ran %q", l.ran)
	}
	if _, err := b.Prune(t.Context(), PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if names, total = list(); len(names) != 0 {
		t.Errorf("after removing all: %q with %d bytes", names, total)
	}
}
