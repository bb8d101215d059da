package runner

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// ErrDetached is what a [DetachReader] ends with when its keys were typed.
var ErrDetached = errors.New("detached")

// DetachReader passes on what is typed at a terminal until the keys come one after the
// other: it then ends with ErrDetached. Without keys it never does.
type DetachReader struct {
	R       io.Reader
	Keys    []byte
	matched int
	held    []byte // read, not yet given out
}

func (d *DetachReader) Read(b []byte) (int, error) {
	if len(d.Keys) == 0 {
		return d.R.Read(b)
	}
	one := make([]byte, max(1, len(b)-len(d.Keys)))
	n, err := d.R.Read(one)
	out := b[:0]
	for _, c := range one[:n] {
		switch {
		case c == d.Keys[d.matched]:
			d.matched++
			d.held = append(d.held, c)
			if d.matched == len(d.Keys) {
				return len(out), ErrDetached
			}
			continue
		case d.matched > 0:
			out = append(out, d.held...)
			d.held, d.matched = d.held[:0], 0
			if c == d.Keys[0] {
				d.matched, d.held = 1, append(d.held, c)
				continue
			}
		}
		out = append(out, c)
	}
	if err != nil {
		out = append(out, d.held...)
		d.held, d.matched = nil, 0
	}
	return len(out), err
}

// typedAhead is how many reads of a terminal wait for who does not read, as much as a connection holds; typedLate how
// long what waits is awaited in the end.
const (
	typedAhead = 64
	typedLate  = 100 * time.Millisecond
)

// CopyTyped passes on what is typed until its end, which is ErrDetached if the keys were typed: they are seen also while
// to takes nothing. What was typed before them has been passed on then, if that took no longer than typedLate.
func CopyTyped(to io.Writer, in *DetachReader) error {
	chunks, written := make(chan []byte, typedAhead), make(chan error, 1)
	go func() {
		var err error
		for b := range chunks {
			if err == nil { // else the rest is for nobody
				_, err = to.Write(b)
			}
		}
		written <- err
	}()
	for {
		b := make([]byte, 4<<10)
		n, err := in.Read(b)
		if n > 0 {
			chunks <- b[:n]
		}
		if err == nil {
			continue
		}
		close(chunks)
		if err == io.EOF {
			return <-written
		}
		select {
		case <-written:
		case <-time.After(typedLate):
		}
		return err
	}
}

// ParseDetachKeys understands docker's notation: letters, and ctrl- with a small letter or
// one of @ [ \ ] ^ _, separated by commas. Nothing means ctrl-p,ctrl-q.
func ParseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		text = "ctrl-p,ctrl-q"
	}
	var keys []byte
	for part := range strings.SplitSeq(text, ",") {
		c, control := strings.CutPrefix(part, "ctrl-")
		switch {
		case len(part) == 1:
			keys = append(keys, part[0])
		case control && len(c) == 1 && c[0] >= 'a' && c[0] <= 'z':
			keys = append(keys, c[0]-'a'+1)
		case control && len(c) == 1 && strings.Contains("@[\\]^_", c):
			keys = append(keys, c[0]-'@')
		default:
			return nil, worded(errdefs.ErrInvalidArgument, "Invalid detach keys (%s) provided", text)
		}
	}
	return keys, nil
}
