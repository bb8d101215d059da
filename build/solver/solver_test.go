package solver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// A memory is a Cache that can be shared by Solvers, as the real one is by processes.
type memory struct {
	mu      sync.Mutex
	records map[digest.Digest]Record[string]
	aliases map[digest.Digest]digest.Digest
	locks   map[digest.Digest]chan struct{}
	failed  []error // of the work under each lock, in order
}

func newMemory() *memory {
	return &memory{records: map[digest.Digest]Record[string]{}, aliases: map[digest.Digest]digest.Digest{}, locks: map[digest.Digest]chan struct{}{}}
}

func (m *memory) Get(_ context.Context, key digest.Digest) (Record[string], bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, ok := m.aliases[key]; ok; a, ok = m.aliases[key] {
		key = a
	}
	r, ok := m.records[key]
	return r, ok, nil
}

func (m *memory) Put(_ context.Context, r Record[string]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.aliases, r.Key)
	m.records[r.Key] = r
	return nil
}

func (m *memory) Alias(_ context.Context, key, canonical digest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, key)
	m.aliases[key] = canonical
	return nil
}

// forget loses the records that these steps made.
func (m *memory) forget(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.records, func(_ digest.Digest, r Record[string]) bool { return slices.Contains(names, r.Description) })
}

func (m *memory) Lock(ctx context.Context, key digest.Digest) (func(error) error, error) {
	m.mu.Lock()
	l, ok := m.locks[key]
	if !ok {
		l = make(chan struct{}, 1)
		m.locks[key] = l
	}
	m.mu.Unlock()
	select {
	case l <- struct{}{}:
		return func(failed error) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.failed = append(m.failed, failed)
			<-l
			return nil
		}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A step is one vertex of a test: "name" stands on the vertices in from.
type step struct {
	name    string
	key     string   // of the operation; "" is transient
	from    []string // "a" or "a:1", the second output of a
	content string   // what stands for key beside reads
	reads   []string // content keys; nil: whole records
	out     []string // "" stands for name and the values of the inputs
	looks   []bool   // Reads
	live    bool
	noCache bool
	fail    error
	wait    bool // until cancelled
}

// A recorder notes what the operations of a build were asked to do.
type recorder struct {
	mu   sync.Mutex
	ran  []string
	read []string
}

func (r *recorder) note(list *[]string, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*list = append(*list, name)
}

type fakeOp struct {
	step
	rec *recorder
}

func (o fakeOp) Key(context.Context) (Key, error) {
	k := Key{Live: o.live, Reads: o.looks}
	if o.reads == nil {
		k.Reads = []bool{}
	}
	if o.content != "" {
		k.Content = digest.FromString(o.content)
	}
	if o.key != "" {
		k.Digest = digest.FromString(o.key)
	}
	return k, nil
}

func (o fakeOp) ContentKeys(context.Context, *Console, []string) ([]digest.Digest, error) {
	o.rec.note(&o.rec.read, o.name)
	return digests(o.reads), nil
}

func digests(list []string) []digest.Digest {
	var out []digest.Digest
	for _, s := range list {
		if s != "" {
			s = digest.FromString(s).String()
		}
		out = append(out, digest.Digest(s))
	}
	return out
}

func (o fakeOp) Run(ctx context.Context, c *Console, in []string) ([]string, error) {
	if !o.live {
		o.rec.note(&o.rec.ran, o.name)
	}
	fmt.Fprint(c.Stdout(), o.name)
	if o.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if o.out != nil {
		return o.out, o.fail
	}
	return []string{o.name + "(" + strings.Join(in, ",") + ")"}, o.fail
}

// build makes the vertices of steps and returns the last.
func build(rec *recorder, steps []step) Edge[string] {
	byName := map[string]*Vertex[string]{}
	var last Edge[string]
	for _, s := range steps {
		v := &Vertex[string]{ID: digest.FromString("vertex " + s.name), Name: s.name, Op: fakeOp{s, rec}, IgnoreCache: s.noCache}
		for _, f := range s.from {
			name, index, _ := strings.Cut(f, ":")
			e := Edge[string]{Vertex: byName[name]}
			if index != "" {
				e.Index = int(index[0] - '0')
			}
			v.Inputs = append(v.Inputs, e)
		}
		byName[s.name] = v
		last = Edge[string]{Vertex: v}
	}
	return last
}

// TestBuilds runs builds one after the other on one cache and says what each has to run.
func TestBuilds(t *testing.T) {
	base := step{name: "base", key: "busybox", live: true}
	context := func(noise string) step { return step{name: "context" + noise, live: true} }
	type round struct {
		forget []string // steps whose results are gone
		steps  []step
		ran    []string
		read   []string // who looked at the bytes of its inputs
	}
	cases := map[string][]round{
		// First, because it is the mistake that is made: the key of a RUN must come from the
		// record of the COPY, not from the context that led to it.
		"steps behind a copy are found although the context changed elsewhere": {
			{steps: []step{base, context("1"), {name: "copy", key: "copy", from: []string{"base", "context1"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"copy", "run"}, read: []string{"copy", "run"}},
			{steps: []step{base, context("2"), {name: "copy", key: "copy", from: []string{"base", "context2"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				read: []string{"copy"}},
		},
		"the same behind a copy from a stage, found by definition the second time without reading": {
			{steps: []step{base, {name: "make", key: "make v1", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"make", "copy", "run"}, read: []string{"make", "copy", "run"}},
			{steps: []step{base, {name: "make", key: "make v2", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"make"}, read: []string{"make", "copy"}},
			{steps: []step{base, {name: "make", key: "make v2", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}}},
		},
		"other content runs again, and what stands on it": {
			{steps: []step{base, context("1"), {name: "copy", key: "copy", from: []string{"base", "context1"}, reads: []string{"", "old"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"copy", "run"}, read: []string{"copy", "run"}},
			{steps: []step{base, context("2"), {name: "copy", key: "copy", from: []string{"base", "context2"}, reads: []string{"", "new"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"copy", "run"}, read: []string{"copy", "run"}},
		},
		"a renamed source is found by content": {
			{steps: []step{{name: "make", key: "make"}, {name: "copy", key: "copy /a/f", content: "copy f", from: []string{"make"}, reads: []string{"files"}}},
				ran: []string{"make", "copy"}, read: []string{"make", "copy"}},
			{steps: []step{{name: "make", key: "make"}, {name: "copy", key: "copy /b/f", content: "copy f", from: []string{"make"}, reads: []string{"files"}}},
				read: []string{"copy"}},
			{steps: []step{{name: "make", key: "make"}, {name: "copy", key: "copy /c/f", content: "copy f", from: []string{"make"}, reads: []string{"others"}}},
				ran: []string{"copy"}, read: []string{"copy"}},
		},
		"what reads a whole directory of this machine is never remembered, nor what stands on it": {
			{steps: []step{context(""), {name: "run", key: "run", from: []string{"context"}}, {name: "after", key: "after", from: []string{"run"}}},
				ran: []string{"run", "after"}, read: []string{"run", "after"}},
			{steps: []step{context(""), {name: "run", key: "run", from: []string{"context"}}, {name: "after", key: "after", from: []string{"run"}}},
				ran: []string{"run", "after"}, read: []string{"run", "after"}},
		},
		"the name of a vertex does not count, outputs do": {
			{steps: []step{{name: "two", key: "two", out: []string{"left", "right"}}, {name: "left", key: "run", from: []string{"two:0"}}},
				ran: []string{"two", "left"}, read: []string{"two", "left"}},
			{steps: []step{{name: "zwei", key: "two", out: []string{"left", "right"}}, {name: "links", key: "run", from: []string{"zwei:0"}}}},
			{steps: []step{{name: "two", key: "two", out: []string{"left", "right"}}, {name: "right", key: "run", from: []string{"two:1"}}},
				ran: []string{"right"}, read: []string{"right"}},
		},
		"no-cache runs a step and what stands on it, once": {
			{steps: []step{{name: "a", key: "a"}, {name: "b", key: "b", from: []string{"a"}}}, ran: []string{"a", "b"}, read: []string{"a", "b"}},
			{steps: []step{{name: "a", key: "a", noCache: true}, {name: "b", key: "b", from: []string{"a"}}}, ran: []string{"a", "b"}, read: []string{"a", "b"}},
			{steps: []step{{name: "a", key: "a"}, {name: "b", key: "b", from: []string{"a"}}}},
		},
		"what is known does not need what it stands on": {
			{steps: []step{base, {name: "tools", key: "tools", from: []string{"base"}}, {name: "make", key: "make", from: []string{"tools"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"tools", "make", "copy", "run"}, read: []string{"tools", "make", "copy", "run"}},
			{forget: []string{"tools", "make"}, steps: []step{base, {name: "tools", key: "tools", from: []string{"base"}}, {name: "make", key: "make", from: []string{"tools"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}}},
			{forget: []string{"run"}, steps: []step{base, {name: "tools", key: "tools", from: []string{"base"}}, {name: "make", key: "make", from: []string{"tools"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"run"}, read: []string{"run"}},
			{forget: []string{"copy", "run"}, steps: []step{base, {name: "tools", key: "tools", from: []string{"base"}}, {name: "make", key: "make", from: []string{"tools"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"tools", "make", "copy", "run"}, read: []string{"tools", "make", "copy", "run"}},
		},
		"a copy onto what is not there is found by what it reads": {
			{steps: []step{base, context("1"), {name: "tools", key: "tools", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"tools", "context1"}, reads: []string{"", "files"}, looks: []bool{false, true}}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"tools", "copy", "run"}, read: []string{"copy", "tools", "copy", "run"}},
			{forget: []string{"tools", "copy"}, steps: []step{base, context("2"), {name: "tools", key: "tools", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"tools", "context2"}, reads: []string{"", "files"}, looks: []bool{false, true}}, {name: "run", key: "run", from: []string{"copy"}}},
				read: []string{"copy"}},
		},
		"no-cache does not rerun a copy whose files came out the same": {
			{steps: []step{base, {name: "a", key: "a"}, {name: "copy", key: "copy", from: []string{"base", "a"}, reads: []string{"", "files"}}}, ran: []string{"a", "copy"}, read: []string{"a", "copy"}},
			{steps: []step{base, {name: "a", key: "a", noCache: true}, {name: "copy", key: "copy", from: []string{"base", "a"}, reads: []string{"", "files"}}}, ran: []string{"a"}, read: []string{"a", "copy"}},
		},
		"what no-cache made is known without what it stands on": {
			{steps: []step{base, {name: "make", key: "make", from: []string{"base"}, noCache: true}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}, noCache: true}, {name: "run", key: "run", from: []string{"copy"}}},
				ran: []string{"make", "copy", "run"}, read: []string{"make", "copy", "run"}},
			{forget: []string{"make"}, steps: []step{base, {name: "make", key: "make", from: []string{"base"}}, {name: "copy", key: "copy", from: []string{"base", "make"}, reads: []string{"", "files"}}, {name: "run", key: "run", from: []string{"copy"}}}},
		},
		"a copy of what no-cache made, whose files came out the same, is known without it": {
			{steps: []step{base, {name: "a", key: "a v1"}, {name: "copy", key: "copy", from: []string{"base", "a"}, reads: []string{"", "files"}}}, ran: []string{"a", "copy"}, read: []string{"a", "copy"}},
			{steps: []step{base, {name: "a", key: "a v2", noCache: true}, {name: "copy", key: "copy", from: []string{"base", "a"}, reads: []string{"", "files"}}}, ran: []string{"a"}, read: []string{"a", "copy"}},
			{forget: []string{"a"}, steps: []step{base, {name: "a", key: "a v2"}, {name: "copy", key: "copy", from: []string{"base", "a"}, reads: []string{"", "files"}}}},
		},
		"equal steps of one build run once, also with no-cache": {
			{steps: []step{{name: "a", key: "a", noCache: true}, {name: "b", key: "a", noCache: true, from: nil}, {name: "c", key: "c", from: []string{"a", "b"}}}, ran: []string{"a", "c"}, read: []string{"a", "b", "c"}},
		},
	}
	for name, builds := range cases {
		t.Run(name, func(t *testing.T) {
			cache := newMemory()
			for i, b := range builds {
				rec := &recorder{}
				cache.forget(b.forget)
				if _, err := New[string](cache, Options{}).Solve(t.Context(), build(rec, b.steps)); err != nil {
					t.Fatal(err)
				}
				if i == 0 && strings.HasPrefix(name, "equal") {
					rec.ran[0], rec.read = "a", b.read // either of the two may run
				}
				if diff := cmp.Diff(b.ran, rec.ran); diff != "" {
					t.Errorf("build %d ran (-want +got):\n%s", i+1, diff)
				}
				if diff := cmp.Diff(b.read, rec.read); diff != "" {
					t.Errorf("build %d read (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

func TestBuildsAtOnceRunEachStepOnce(t *testing.T) {
	cache := newMemory()
	rec := &recorder{}
	var steps []step
	var all []string
	for i := range 20 {
		name := fmt.Sprint("s", i)
		s := step{name: name, key: name}
		if i > 1 {
			s.from = []string{fmt.Sprint("s", i-2), fmt.Sprint("s", i-1)}
			s.reads = []string{"", "content of " + name}
		}
		all = append(all, name)
		steps = append(steps, s)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := New[string](cache, Options{Parallel: 2}).Solve(t.Context(), build(rec, steps)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(rec.ran) != len(all) {
		t.Errorf("ran %d steps, want %d: %v", len(rec.ran), len(all), rec.ran)
	}
}

func TestFailure(t *testing.T) {
	broken := errors.New("broken")
	steps := []step{
		{name: "slow", key: "slow", wait: true},
		{name: "bad", key: "bad", fail: broken},
		{name: "end", key: "end", from: []string{"slow", "bad"}},
	}
	var mu sync.Mutex
	ended := map[string]error{}
	events := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == Completed {
			ended[e.Name] = e.Err
		}
	}
	rec, cache := &recorder{}, newMemory()
	_, err := New[string](cache, Options{Parallel: 2, Events: events}).Solve(t.Context(), build(rec, steps))
	var vertex *VertexError
	if !errors.As(err, &vertex) || vertex.Name != "bad" || !errors.Is(err, broken) {
		t.Fatalf("got %v, want the failure of bad", err)
	}
	if !errors.Is(ended["bad"], broken) {
		t.Errorf("bad ended with %v", ended["bad"])
	}
	if err, ok := ended["slow"]; ok && !errors.Is(err, context.Canceled) {
		t.Errorf("slow ended with %v", err)
	}
	for _, err := range cache.failed {
		if err != nil && !errors.Is(err, broken) {
			t.Errorf("those who wait are told that %v", err) // slow was given up
		}
	}
	if !slices.ContainsFunc(cache.failed, func(err error) bool { return errors.Is(err, broken) }) {
		t.Error("those who wait are not told of the failure")
	}
	for _, name := range rec.ran {
		if name == "end" {
			t.Error("a step ran although what it stands on had failed")
		}
	}
}

// A call that is given up must not fail another one that shares its vertices.
func TestCancelledCallDoesNotFailAnother(t *testing.T) {
	s := New[string](newMemory(), Options{Parallel: 4})
	started := make(chan struct{})
	var runs atomic.Int32
	v := &Vertex[string]{ID: digest.FromString("v"), Name: "v", Op: funcOp(func(ctx context.Context) ([]string, error) {
		if runs.Add(1) == 1 {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []string{"done"}, nil
	})}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Solve(ctx, Edge[string]{Vertex: v}); !errors.Is(err, context.Canceled) {
			t.Errorf("the call that was cancelled returned %v", err)
		}
	})
	<-started
	wg.Go(func() {
		if got, err := s.Solve(t.Context(), Edge[string]{Vertex: v}); err != nil || got != "done" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	cancel()
	wg.Wait()
}

// TestCanceledOperation: an operation that fails with context.Canceled by itself, as what it asked somebody for was
// given up there, has failed for all who want its result.
func TestCanceledOperation(t *testing.T) {
	runs := 0
	v := &Vertex[string]{ID: digest.FromString("v"), Name: "v", Op: funcOp(func(context.Context) ([]string, error) {
		runs++
		return nil, fmt.Errorf("asking: %w", context.Canceled)
	})}
	s := New[string](newMemory(), Options{Parallel: 1})
	for range 2 {
		done := make(chan error, 1)
		go func() {
			_, err := s.Solve(t.Context(), Edge[string]{Vertex: v})
			done <- err
		}()
		select {
		case err := <-done:
			var failed *VertexError
			if !errors.As(err, &failed) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it is waited for without end")
		}
	}
	if runs != 1 {
		t.Errorf("it ran %d times", runs)
	}
}

func TestParallelIsBounded(t *testing.T) {
	var now, most atomic.Int32
	var open sync.Once
	gate := make(chan struct{}) // opens when three run
	last := &Vertex[string]{ID: "last", Name: "last", Op: funcOp(func(context.Context) ([]string, error) { return []string{""}, nil })}
	for i := range 10 {
		last.Inputs = append(last.Inputs, Edge[string]{Vertex: &Vertex[string]{
			ID: digest.FromString(fmt.Sprint(i)), Name: fmt.Sprint(i),
			Op: funcOp(func(context.Context) ([]string, error) {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if n == 3 {
					open.Do(func() { close(gate) })
				}
				<-gate
				now.Add(-1)
				return []string{""}, nil
			}),
		}})
	}
	if _, err := New[string](newMemory(), Options{Parallel: 3}).Solve(t.Context(), Edge[string]{Vertex: last}); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 3 {
		t.Errorf("%d operations ran at once, want at most 3", most.Load())
	}
}

// funcOp is an operation that nothing identifies.
type funcOp func(ctx context.Context) ([]string, error)

func (f funcOp) Key(context.Context) (Key, error) { return Key{}, nil }
func (f funcOp) ContentKeys(context.Context, *Console, []string) ([]digest.Digest, error) {
	return nil, nil
}
func (f funcOp) Run(ctx context.Context, _ *Console, _ []string) ([]string, error) { return f(ctx) }

// TestEachVertexIsSeenOnce finds a result behind vertices that stand on the one before twice each: of what lies between
// nothing is there any more, and there are 2^60 ways through it.
func TestEachVertexIsSeenOnce(t *testing.T) {
	cache := newMemory()
	const long = 60
	var steps []step
	var between []string
	for i := range long {
		s := step{name: fmt.Sprint("s", i), key: fmt.Sprint("s", i), out: []string{"x"}}
		if i > 0 {
			s.from = []string{steps[i-1].name, steps[i-1].name}
		}
		if i < long-1 {
			between = append(between, s.name)
		}
		steps = append(steps, s)
	}
	if _, err := New[string](cache, Options{}).Solve(t.Context(), build(&recorder{}, steps)); err != nil {
		t.Fatal(err)
	}
	cache.forget(between)
	done := make(chan error, 1)
	rec := &recorder{}
	go func() {
		_, err := New[string](cache, Options{}).Solve(t.Context(), build(rec, steps))
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil || len(rec.ran) > 0 {
			t.Errorf("ran %q, %v", rec.ran, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the result is not found in ten seconds")
	}
}

// A crowd counts who asks for locks.
type crowd struct {
	*memory
	now, most atomic.Int64
}

func (c *crowd) Lock(ctx context.Context, key digest.Digest) (func(error) error, error) {
	n := c.now.Add(1)
	for old := c.most.Load(); n > old && !c.most.CompareAndSwap(old, n); old = c.most.Load() {
	}
	unlock, err := c.memory.Lock(ctx, key)
	return func(failed error) error { defer c.now.Add(-1); return unlock(failed) }, err
}

func (c *crowd) Get(ctx context.Context, key digest.Digest) (Record[string], bool, error) {
	time.Sleep(time.Millisecond) // so that there is a crowd
	return c.memory.Get(ctx, key)
}

// TestLocksAreBounded: a thread may wait for each lock.
func TestLocksAreBounded(t *testing.T) {
	cache := &crowd{memory: newMemory()}
	var steps []step
	end := step{name: "end", key: "end"}
	for i := range 1000 {
		name := fmt.Sprint("s", i)
		steps, end.from = append(steps, step{name: name, key: name}), append(end.from, name)
	}
	if _, err := New[string](cache, Options{Parallel: 2}).Solve(t.Context(), build(&recorder{}, append(steps, end))); err != nil {
		t.Fatal(err)
	}
	if most := cache.most.Load(); most > maxLocks+2 {
		t.Errorf("%d vertices asked for locks at once", most)
	}
}
