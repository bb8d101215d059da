//go:build !front && !porter

package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A BuildPrinter shows the events of a build. Its methods are called one at a time.
type BuildPrinter interface {
	Event(solver.Event)
	Warn(dockerfile.Warning)
	// Close is called when the build has ended, before its error is printed.
	Close()
}

// BuildPrinter returns the printer for a --progress mode: auto, tty, plain, json, rawjson (the lines
// of docker buildx), quiet or none.
func (u *UI) BuildPrinter(mode string) (BuildPrinter, error) {
	switch mode {
	case "", "auto":
		if u.draws() {
			return newTTYPrinter(u), nil
		}
		return newPlainPrinter(u.errText(), u.commandText()), nil
	case "tty":
		if !u.ErrTerminal() {
			return nil, fmt.Errorf("--progress tty needs a terminal on standard error")
		}
		return newTTYPrinter(u), nil
	case "plain":
		return newPlainPrinter(u.errText(), u.commandText()), nil
	case "json":
		return newJSONPrinter(u.Err), nil
	case "rawjson":
		return newRawPrinter(u.Err), nil
	case "quiet", "none":
		return quietPrinter{}, nil
	}
	return nil, fmt.Errorf("--progress is auto, tty, plain, json or quiet, not %q", mode)
}

// commandText makes of a line that a command of a build has written what goes to standard error: on a terminal without
// its colours, which would be in the way if they were shown as text.
func (u *UI) commandText() func(string) string {
	if u.ErrTerminal() {
		return printable
	}
	return func(line string) string { return line }
}

type quietPrinter struct{}

func (quietPrinter) Event(solver.Event)      {}
func (quietPrinter) Warn(dockerfile.Warning) {}
func (quietPrinter) Close()                  {}

// A step is what printers know of a vertex.
type step struct {
	number  int
	name    string
	began   time.Time
	running time.Time // zero until it runs
	ended   time.Time // zero until it ended
	cached  bool
	skipped bool
	err     error
	partial [3]string // line of a stream that has no end yet
	status  map[string]solver.Status
}

// since returns the seconds of the step at t.
func (s *step) since(t time.Time) float64 {
	from := s.running
	if from.IsZero() {
		from = s.began
	}
	return max(t.Sub(from).Seconds(), 0)
}

// steps are the vertices of a build in the order in which they began.
type steps struct {
	list []*step
	byID map[digest.Digest]*step
}

// apply notes e and returns its step.
func (l *steps) apply(e solver.Event) *step {
	s := l.byID[e.Vertex]
	if s == nil {
		if l.byID == nil {
			l.byID = map[digest.Digest]*step{}
		}
		s = &step{number: len(l.list) + 1, name: oneLine(e.Name), began: e.Time, status: map[string]solver.Status{}}
		l.byID[e.Vertex] = s
		l.list = append(l.list, s)
	}
	switch e.Kind {
	case solver.Started:
		s.began, s.running, s.ended, s.err = e.Time, time.Time{}, time.Time{}, nil
	case solver.Running:
		s.running = e.Time
	case solver.Cached:
		s.ended, s.cached = e.Time, true
	case solver.Skipped:
		s.ended, s.skipped = e.Time, true
	case solver.Completed:
		s.ended, s.err = e.Time, e.Err
	case solver.Progress:
		s.status[e.Status.ID] = e.Status
	}
	return s
}

// oneLine makes one line of a name: a here-document is a command of many.
func oneLine(name string) string {
	return strings.Join(strings.FieldsFunc(name, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

// lines cuts what a step wrote into whole lines; a carriage return ends one too, as
// progress bars do. What is left waits for the next write.
func (s *step) lines(stream int, data []byte) []string {
	stream = min(max(stream, 0), len(s.partial)-1)
	text := strings.ReplaceAll(s.partial[stream]+string(data), "\r\n", "\n")
	list := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	s.partial[stream] = ""
	if n := len(list); n > 0 && !strings.HasSuffix(text, "\n") && !strings.HasSuffix(text, "\r") && len(list[n-1]) < 4096 {
		s.partial[stream] = list[n-1]
		list = list[:n-1]
	}
	return list
}

// rest returns the lines that never ended.
func (s *step) rest() []string {
	var list []string
	for i, p := range s.partial {
		if p != "" {
			list = append(list, p)
			s.partial[i] = ""
		}
	}
	return list
}

func transferred(s solver.Status) string {
	switch {
	case s.Total > 0:
		return fmt.Sprintf("%s / %s", size(s.Current), size(s.Total))
	case s.Current > 0:
		return size(s.Current)
	}
	return ""
}

func warning(w dockerfile.Warning) string {
	text := w.Text
	if w.Where.Start > 0 {
		text = fmt.Sprintf("%s:%d: %s", w.Where.File, w.Where.Start, w.Text)
	}
	if w.URL != "" {
		text += " (" + w.URL + ")"
	}
	return text
}
