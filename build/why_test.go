package build

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teu-dev/teu/build/solver"
)

func TestWhy(t *testing.T) {
	b := newBench(t)
	dockerfile := []string{"FROM busybox AS tools", "COPY src /src", "ARG V=1", "RUN cat /src/* > /out", "FROM busybox", "COPY --from=tools /out /out", "RUN wc /out"}
	copied, ran, taken, counted := "[tools 2/3] COPY src /src", "[tools 3/3] RUN cat /src/* > /out", "[stage-1 2/3] COPY --from=tools /out /out", "[stage-1 3/3] RUN wc /out"
	first := []string{"it is the first build of this Dockerfile and context here"}
	for i, step := range []struct {
		files   map[string]string
		gone    string
		options Options
		lines   []string
		want    []Reason
	}{
		{files: map[string]string{"src/a": "a", "src/b": "b"}, lines: dockerfile,
			want: []Reason{{copied, first}, {ran, first}, {taken, first}, {counted, first}}},
		{lines: dockerfile},
		{files: map[string]string{"src/a": "A", "src/c": "c"}, gone: "src/b", lines: dockerfile, want: []Reason{
			{copied, []string{"/src/a changed", "/src/b is gone", "/src/c is new"}},
			{ran, []string{copied + " gave another result"}},
			{taken, []string{"what it reads of " + ran + " changed"}},
			{counted, []string{taken + " gave another result"}},
		}},
		{options: Options{Args: map[string]string{"V": "2"}}, lines: dockerfile, want: []Reason{
			{ran, []string{`the variable V changed from "1" to "2"`}},
		}},
		{options: Options{Args: map[string]string{"V": "2"}, NoCacheOf: []string{"stage-1"}}, lines: append(dockerfile[:6:6], "RUN wc -l /out")},
		{lines: append(dockerfile[:6:6], "RUN wc -c /out"), options: Options{Args: map[string]string{"V": "2"}}, want: []Reason{
			{"[stage-1 3/3] RUN wc -c /out", []string{`the command changed from "/bin/sh -c wc -l /out" to "/bin/sh -c wc -c /out"`}},
		}},
		{lines: append(dockerfile[:6:6], "RUN wc -c /out"), options: Options{NoCache: true, Args: map[string]string{"V": "2"}}, want: []Reason{
			{copied, []string{"--no-cache or --no-cache-filter asked for it"}},
			{ran, []string{"--no-cache or --no-cache-filter asked for it", copied + " gave another result"}},
			{taken, []string{"--no-cache or --no-cache-filter asked for it"}},
			{"[stage-1 3/3] RUN wc -c /out", []string{"--no-cache or --no-cache-filter asked for it", taken + " gave another result"}},
		}},
	} {
		b.write(step.files)
		if step.gone != "" {
			if err := os.Remove(b.dir + "/" + step.gone); err != nil {
				t.Fatal(err)
			}
		}
		res, _ := b.must(step.options, step.lines...)
		if i == 4 { // only its command is new
			continue
		}
		if diff := cmp.Diff(step.want, res.Why); diff != "" {
			t.Errorf("build %d (-want +got):\n%s", i+1, diff)
		}
	}
}

// TestHiddenFile holds that the rule which hides a missing file is named.
func TestHiddenFile(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{".dockerignore": "*.log\ndocs\n!docs/keep\n", "a.log": "x", "docs/guide/a": "x"})
	for src, want := range map[string]string{"a.log": `"*.log"`, "docs/guide/a": `"docs"`, "nowhere": ""} {
		_, _, err := b.build(Options{}, "FROM busybox", "COPY "+src+" /x")
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", src, err)
		}
		if !strings.Contains(e.Hint(), want) || (want == "") != (e.Hint() == "") {
			t.Errorf("%s: the hint is %q, want it to name %s", src, e.Hint(), want)
		}
	}
	// One rule of many is found at once: trying 20,000 beginnings of the list took minutes.
	b.write(map[string]string{".dockerignore": strings.Repeat("other/*.x\n", 20_000) + "! docs/guide\n*.log\n"})
	start := time.Now()
	_, _, err := b.build(Options{}, "FROM busybox", "COPY a.log /x")
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint(), `"*.log"`) || time.Since(start) > 30*time.Second {
		t.Errorf("20,000 rules: %v after %v", err, time.Since(start))
	}
	// With --parents what is missing is a path below the source.
	b.write(map[string]string{".dockerignore": "*\n!a.log\n"})
	for src, want := range map[string]string{"docs/guide/a": "/docs/guide/a is in the context", "nowhere/a": ""} {
		_, _, err := b.build(Options{}, "FROM busybox", "COPY --parents "+src+" /x/")
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", src, err)
		}
		if !strings.HasPrefix(e.Hint(), want) || (want == "") != (e.Hint() == "") {
			t.Errorf("--parents %s: the hint is %q, want %q", src, e.Hint(), want)
		}
	}
}

// TestSkippedSteps holds that what comes after a failure is told to have been skipped, not cached.
func TestSkippedSteps(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"Dockerfile": "FROM busybox\nRUN exit 3\nRUN echo never\n"})
	var mu sync.Mutex
	last := map[string]solver.EventKind{}
	_, err := b.Build(t.Context(), Options{Context: b.dir, Events: func(e solver.Event) {
		mu.Lock()
		defer mu.Unlock()
		last[e.Name] = e.Kind
	}})
	if err == nil || last["[3/3] RUN echo never"] != solver.Skipped || last["[2/3] RUN exit 3"] != solver.Completed {
		t.Errorf("%v; last events %v", err, last)
	}
}
