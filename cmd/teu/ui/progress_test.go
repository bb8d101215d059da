package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// story is a build with two steps at once, a cached one and a failure.
func story() []solver.Event {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	return []solver.Event{
		{Kind: solver.Started, Vertex: a, Name: "[1/3] FROM busybox", Time: at(0)},
		{Kind: solver.Cached, Vertex: a, Name: "[1/3] FROM busybox", Time: at(1)},
		{Kind: solver.Started, Vertex: b, Name: "[2/3] RUN <<EOF\necho\nEOF", Time: at(2)},
		{Kind: solver.Started, Vertex: c, Name: "pull", Time: at(3)},
		{Kind: solver.Running, Vertex: b, Name: "[2/3] RUN <<EOF\necho\nEOF", Time: at(100)},
		{Kind: solver.Log, Vertex: b, Time: at(223), Stream: 1, Data: []byte("hi\nthe")},
		{Kind: solver.Progress, Vertex: c, Time: at(224), Status: solver.Status{ID: "sha256:1", Current: 10, Total: 2500}},
		{Kind: solver.Progress, Vertex: c, Time: at(225), Status: solver.Status{ID: "sha256:1", Current: 20, Total: 2500}},
		{Kind: solver.Log, Vertex: b, Time: at(300), Stream: 2, Data: []byte("\x1b[31mred\x1b[0m\r\n")},
		{Kind: solver.Log, Vertex: b, Time: at(301), Stream: 1, Data: []byte("re\n")},
		{Kind: solver.Progress, Vertex: c, Time: at(400), Status: solver.Status{ID: "sha256:1", Current: 2500, Total: 2500, Done: true}},
		{Kind: solver.Log, Vertex: b, Time: at(450), Stream: 1, Data: []byte("no end")},
		{Kind: solver.Completed, Vertex: b, Time: at(500), Err: errors.New("exit code: 1")},
		{Kind: solver.Completed, Vertex: c, Time: at(600), Err: context.Canceled},
	}
}

func TestPlainPrinter(t *testing.T) {
	var b bytes.Buffer
	p := newPlainPrinter(&b, func(line string) string { return line })
	for _, e := range story() {
		p.Event(e)
	}
	p.Warn(dockerfile.Warning{Text: "bad", URL: "https://x", Where: dockerfile.Location{File: "Dockerfile", Start: 2, End: 2}})
	p.Close()
	want := `#1 [1/3] FROM busybox
#1 CACHED

#2 [2/3] RUN <<EOF echo EOF
#2 0.123 hi
#3 pull
#3 sha256:1 10B / 2.5kB
#2 0.200 ` + "\x1b[31mred\x1b[0m" + `
#2 0.201 there
#3 sha256:1 2.5kB / 2.5kB done
#2 0.400 no end
#2 ERROR: exit code: 1

#3 CANCELED

WARNING: Dockerfile:2: bad (https://x)
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestJSONPrinter(t *testing.T) {
	var b bytes.Buffer
	p := newJSONPrinter(&b)
	for _, e := range story() {
		p.Event(e)
	}
	var kinds []string
	for line := range strings.Lines(b.String()) {
		var e jsonEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Event)
	}
	want := "started cached started started running log progress progress log log progress log completed completed"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The region never has a line that could wrap or move the cursor, whatever a step prints.
func TestTTYRegionFits(t *testing.T) {
	var b bytes.Buffer
	p := &ttyPrinter{u: &UI{Err: &b}, w: &b, logs: map[*step][]string{}, began: time.Unix(1000, 0)}
	for _, e := range story()[:12] {
		p.Event(e)
	}
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}} {
		lines := p.region(time.Unix(1001, 0), size[0], size[1])
		if len(lines) > max(size[1], 2) {
			t.Errorf("%d lines on a screen of %d", len(lines), size[1])
		}
		for _, line := range lines[1:] {
			if len([]rune(line)) > max(size[0], 8) || strings.ContainsAny(line, "\x1b\r\n") {
				t.Errorf("bad line %q for %d columns", line, size[0])
			}
		}
	}
	got := strings.Join(p.region(time.Unix(1001, 0), 60, 24), "\n")
	for _, want := range []string{"(1/3)", "=> CACHED [1/3] FROM busybox", "# hi", "# red", "# there"} {
		if !strings.Contains(got, want) {
			t.Errorf("region has no %q:\n%s", want, got)
		}
	}
}

func TestExcerpt(t *testing.T) {
	text := []byte("FROM a\nRUN b \\\n  c\n\nRUN d\nRUN e\n")
	got := excerpt([]graph.Location{{File: "Dockerfile", Text: text, Start: 2, End: 3}})
	want := `Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b \
   3 | >>>   c
   4 |     
   5 |     RUN d
--------------------
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("excerpt (-want +got):\n%s", diff)
	}
}

// TestLongErrors: what is printed of an error has bounds, whatever it names.
func TestLongErrors(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	if got := excerpt([]graph.Location{{File: "Dockerfile", Text: []byte("FROM a\nCOPY " + long + " /\n"), Start: 2, End: 2}}); len(got) > 3000 || !strings.Contains(got, "bytes left out") || !utf8.ValidString(got) {
		t.Errorf("%d bytes of a long line: %.100q", len(got), got)
	}
	got := excerpt([]graph.Location{{File: "Dockerfile", Text: []byte(strings.Repeat("RUN a\n", 1000)), Start: 3, End: 900}})
	if n := strings.Count(got, "\n"); n > 210 || !strings.Contains(got, "[702 lines left out]") {
		t.Errorf("%d lines of many:\n%s", n, got)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	New(nil, nil, file).Error(errors.New("reading " + long + ": no such file"))
	out, err := os.ReadFile(file.Name())
	if text := string(out); err != nil || !strings.HasSuffix(text, ": no such file\n") || !strings.HasPrefix(text, "teu: reading é") || len(text) > maxMessage+100 || !utf8.Valid(out) {
		t.Errorf("%d bytes, %v: %.100q", len(out), err, text)
	}
}
