//go:build !front

package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/content"
)

// TransferWords are what a Transfer calls what happens to a layer.
type TransferWords struct {
	Moving, Exists, Done string
	Unpacked             bool // a layer is done when it is unpacked, not when it has arrived
}

// A Transfer shows layers that move, on standard error: a line each that changes where
// that is a terminal, else a line when each has arrived, or JSON. Event may be called by several
// goroutines at once.
type Transfer struct {
	w        io.Writer
	words    TransferWords
	terminal bool
	json     *json.Encoder // instead of all else
	now      func() time.Time
	size     func() (columns, rows int)
	stop     chan struct{}
	stopped  chan struct{}

	mu     sync.Mutex
	layers []*layerLine
	known  map[digest.Digest]*layerLine
	drawn  int // lines of the region on the screen
}

// layerLine is what is known of one layer.
type layerLine struct {
	name string
	text string // what it is doing; once done, what became of it
	done bool

	told  time.Time // of the last JSON line about how far it is
	since time.Time // when it had the bytes of mark
	mark  int64
	rate  float64 // bytes per second, lately
}

// A TransferMode says how a Transfer shows: "auto", "tty", "plain", "json" or "quiet". It is a pflag.Value.
type TransferMode string

func (m *TransferMode) String() string { return string(*m) }

// Type is what help calls the value.
func (m *TransferMode) Type() string { return "string" }

// Set takes one of the modes.
func (m *TransferMode) Set(s string) error {
	switch s {
	case "auto", "tty", "plain", "json", "quiet":
		*m = TransferMode(s)
		return nil
	}
	return fmt.Errorf("it is auto, tty, plain, json or quiet")
}

// Quiet is m, or "quiet" if a flag asks for that.
func (m TransferMode) Quiet(quiet bool) TransferMode {
	if quiet {
		return "quiet"
	}
	return m
}

// Transfer begins to show what happens to layers. The caller closes it before printing anything else.
func (u *UI) Transfer(words TransferWords, mode TransferMode) *Transfer {
	t := &Transfer{w: u.Err, words: words, size: u.Size, known: map[digest.Digest]*layerLine{}, now: time.Now}
	switch mode {
	case "quiet":
		t.w = io.Discard
	case "json":
		t.json = json.NewEncoder(u.Err)
		t.json.SetEscapeHTML(false)
	case "plain":
	default: // on something that is no terminal "tty" is "plain"
		t.terminal = u.draws()
	}
	if t.terminal {
		t.stop, t.stopped = make(chan struct{}), make(chan struct{})
		go t.tick()
	}
	return t
}

// tick draws until Close.
func (t *Transfer) tick() {
	defer close(t.stopped)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
			t.mu.Lock()
			t.draw()
			t.mu.Unlock()
		}
	}
}

// Event takes what happened to a blob. Only layers are shown.
func (t *Transfer) Event(e content.Event) {
	if !content.IsLayer(e.Desc.MediaType) || e.Desc.Digest == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.known[e.Desc.Digest]
	if l == nil {
		l = &layerLine{name: e.Desc.Digest.Encoded()[:12]}
		t.known[e.Desc.Digest] = l
		t.layers = append(t.layers, l)
	}
	if l.done {
		return
	}
	if t.json != nil {
		t.encode(l, e)
	}
	switch e.Kind {
	case content.EventExists:
		t.finish(l, t.words.Exists)
	case content.EventDone:
		if t.words.Unpacked {
			l.text = "Extracting" // what has arrived is unpacked next
			break
		}
		t.finish(l, t.words.Done)
	case content.EventUnpacked:
		t.finish(l, t.words.Done)
	case content.EventUnpack:
		l.text = "Extracting " + bar(e.Current, e.Total)
	case content.EventTransfer:
		l.text = t.words.Moving + " " + bar(e.Current, e.Total) + l.speed(e.Current, t.now())
	case content.EventRetry:
		l.text = "Retrying: " + printable(e.Text)
		if !t.terminal && t.json == nil {
			fmt.Fprintf(t.w, "%s: %s\n", l.name, l.text)
		}
	}
}

// speed returns the rate of the last second or so as text, empty at the beginning.
func (l *layerLine) speed(current int64, now time.Time) string {
	if l.since.IsZero() || current < l.mark { // it begins, or begins again
		l.since, l.mark, l.rate = now, current, 0
	}
	if d := now.Sub(l.since).Seconds(); d >= 1 || d >= 0.25 && l.rate == 0 {
		l.rate = float64(current-l.mark) / d
		l.since, l.mark = now, current
	}
	if l.rate == 0 {
		return ""
	}
	return "  " + size(int64(l.rate)) + "/s"
}

// A transferEvent is a line of --progress json. Fields are only ever added.
type transferEvent struct {
	Time    time.Time     `json:"time"`
	Event   string        `json:"event"` // exists, transfer, done, unpack, unpacked, retry
	Digest  digest.Digest `json:"digest"`
	Current int64         `json:"current,omitempty"` // bytes
	Total   int64         `json:"total,omitempty"`
	Text    string        `json:"text,omitempty"` // of retry
}

// encode writes a line, of how far the layer is five times a second at the most.
func (t *Transfer) encode(l *layerLine, e content.Event) {
	now := t.now()
	if e.Kind == content.EventTransfer || e.Kind == content.EventUnpack {
		if now.Sub(l.told) < 200*time.Millisecond {
			return
		}
		l.told = now
	}
	_ = t.json.Encode(transferEvent{Time: now, Event: string(e.Kind), Digest: e.Desc.Digest, Current: e.Current, Total: e.Total, Text: e.Text})
}

func (t *Transfer) finish(l *layerLine, text string) {
	l.text, l.done = text, true
	if !t.terminal && t.json == nil {
		fmt.Fprintf(t.w, "%s: %s\n", l.name, text)
	}
}

// Close leaves the last state on the screen.
func (t *Transfer) Close() {
	if t.terminal {
		close(t.stop)
		<-t.stopped
		t.draw()
	}
}

// draw replaces the region.
func (t *Transfer) draw() {
	columns, rows := t.size()
	layers := t.layers[max(0, len(t.layers)-max(rows-2, 1)):]
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range layers {
		b.WriteString(cut(l.name+": "+l.text, columns) + "\n")
	}
	io.WriteString(t.w, b.String())
	t.drawn = len(layers)
}

// bar shows how much of total is done, as docker does.
func bar(current, total int64) string {
	if total <= 0 || current > total {
		return size(current)
	}
	const width = 30
	n := int(float64(current) / float64(total) * width)
	arrow := strings.Repeat("=", n) + ">" + strings.Repeat(" ", width-n)
	return fmt.Sprintf("[%s] %s/%s", arrow, size(current), size(total))
}

// PullWords returns docker's words for a pull.
func PullWords() TransferWords {
	return TransferWords{Moving: "Downloading", Exists: "Already exists", Done: "Pull complete", Unpacked: true}
}

// PushWords returns docker's words for a push.
func PushWords() TransferWords {
	return TransferWords{Moving: "Pushing", Exists: "Layer already exists", Done: "Pushed"}
}

// CopyWords returns the words for a copy between two places elsewhere.
func CopyWords() TransferWords {
	return TransferWords{Moving: "Copying", Exists: "Already exists", Done: "Copied"}
}
