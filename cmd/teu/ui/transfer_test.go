package ui

import (
	"bytes"
	"strings"
	"testing"

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
	tr := u.Transfer(PullWords(), false)
	events, names := pullEvents()
	for _, e := range events {
		tr.Event(e)
	}
	tr.Close()
	want := names[0] + ": Already exists\n" + names[1] + ": Pull complete\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTransferQuiet(t *testing.T) {
	var out bytes.Buffer
	tr := (&UI{Err: &out}).Transfer(PullWords(), true)
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
	tr := (&UI{Err: &out}).Transfer(PullWords(), false)
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
