package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// pullEvents are those of a pull of three layers, one of which is there.
func pullEvents() (events []content.Event, names []string) {
	var descs []ocispec.Descriptor
	for _, s := range []string{"a", "b", "c"} {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(s), Size: 1000}
		descs = append(descs, d)
		names = append(names, d.Digest.Encoded()[:12])
	}
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 10}
	return []content.Event{
		{Kind: content.EventDone, Desc: manifest},
		{Kind: content.EventExists, Desc: descs[0]},
		{Kind: content.EventTransfer, Desc: descs[1], Current: 500, Total: 1000},
		{Kind: content.EventTransfer, Desc: descs[2], Current: 100, Total: 1000},
		{Kind: content.EventDone, Desc: descs[1]},
		{Kind: content.EventUnpacked, Desc: descs[1]},
		{Kind: content.EventUnpacked, Desc: descs[1]},
		{Kind: content.EventRetry, Desc: descs[2], Text: "cut\x1b[2J"},
	}, names
}

func TestTransferPlain(t *testing.T) {
	var out bytes.Buffer
	u := &UI{Err: &out}
	tr := u.Transfer(PullWords(), "auto")
	events, names := pullEvents()
	for _, e := range events {
		tr.Event(e)
	}
	tr.Close()
	want := names[0] + ": Already exists\n" + names[1] + ": Pull complete\n" + names[2] + ": Retrying: cut\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTransferQuiet(t *testing.T) {
	var out bytes.Buffer
	tr := (&UI{Err: &out}).Transfer(PullWords(), "quiet")
	events, _ := pullEvents()
	for _, e := range events {
		tr.Event(e)
	}
	tr.Close()
	if out.Len() != 0 {
		t.Errorf("got %q", out.String())
	}
}

func TestTransferRegion(t *testing.T) {
	var out bytes.Buffer
	tr := (&UI{Err: &out}).Transfer(PullWords(), "auto")
	tr.terminal, tr.size = true, func() (int, int) { return 60, 24 }
	events, names := pullEvents()
	for _, e := range events {
		tr.Event(e)
	}
	tr.draw()
	tr.draw()
	last := out.String()[strings.LastIndex(out.String(), "\x1b[3A\r\x1b[J"):]
	want := "\x1b[3A\r\x1b[J" + names[0] + ": Already exists\n" + names[1] + ": Pull complete\n" + names[2] + ": Retrying: cut\n"
	if diff := cmp.Diff(want, last); diff != "" {
		t.Error(diff)
	}
	if got, want := bar(500, 1000), "[===============>               ] 500B/1.0kB"; got != want {
		t.Errorf("got %q", got)
	}
}

// TestTransferRate: the rate is that of the last second, and none is shown before there is one.
func TestTransferRate(t *testing.T) {
	tr := (&UI{Err: &bytes.Buffer{}}).Transfer(PullWords(), "auto")
	clock := time.Unix(1e9, 0)
	tr.now = func() time.Time { return clock }
	events, names := pullEvents()
	d := events[2].Desc
	var got []string
	for _, at := range []struct {
		after   time.Duration
		current int64
	}{{0, 0}, {100 * time.Millisecond, 50}, {200 * time.Millisecond, 150}, {time.Second, 650}, {time.Second / 2, 650}, {0, 100}} {
		clock = clock.Add(at.after)
		tr.Event(content.Event{Kind: content.EventTransfer, Desc: d, Current: at.current, Total: 1000})
		_, rate, _ := strings.Cut(tr.known[d.Digest].text, "/1.0kB")
		got = append(got, rate)
	}
	if diff := cmp.Diff([]string{"", "", "  500B/s", "  500B/s", "  500B/s", ""}, got); diff != "" {
		t.Error(names[1], diff)
	}
}

// TestTransferJSON: one object per line, and of how far a layer is not more than five a second.
func TestTransferJSON(t *testing.T) {
	var out bytes.Buffer
	tr := (&UI{Err: &out}).Transfer(PullWords(), "json")
	clock := time.Unix(1e9, 0)
	tr.now = func() time.Time { return clock }
	events, _ := pullEvents()
	for _, e := range append(events[:4:4], events[3:]...) {
		tr.Event(e)
	}
	tr.Close()
	var got []string
	for line := range strings.Lines(out.String()) {
		var e transferEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || !e.Time.Equal(clock) || e.Digest.Validate() != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, fmt.Sprintf("%s %d/%d %s", e.Event, e.Current, e.Total, e.Text))
	}
	want := []string{"exists 0/0 ", "transfer 500/1000 ", "transfer 100/1000 ", "done 0/0 ", "unpacked 0/0 ", "retry 0/0 cut\x1b[2J"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTransferModes(t *testing.T) {
	m := TransferMode("auto")
	if err := m.Set("fancy"); err == nil || m != "auto" {
		t.Errorf("fancy: %v, %q", err, m)
	}
	if err := m.Set("json"); err != nil || m != "json" || m.Quiet(false) != "json" || m.Quiet(true) != "quiet" {
		t.Errorf("json: %v, %q", err, m)
	}
}

// TestCut: what is cut fits, whatever it consists of.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		text, want string
		columns    int
	}{
		{"plain", "pla", 3},
		{"日本語", "日", 3},
		{"日本語", "日本", 4},
		{"e\u0301te\u0301", "e\u0301te\u0301", 3},
		{"🚀 off", "🚀 ", 3},
		{"any", "a", 0},
	} {
		if got := cut(c.text, c.columns); got != c.want || width(got) > max(c.columns, 1) {
			t.Errorf("%q in %d columns: %q", c.text, c.columns, got)
		}
	}
}
