//go:build !front && !porter

package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A plainPrinter writes one line per event, each with the number of its step, so that lines
// of steps that run at the same time can be told apart:
//
//	#5 [2/3] RUN echo hi
//	#5 0.123 hi
//	#5 DONE 0.2s
type plainPrinter struct {
	w     io.Writer
	steps steps
	show  func(line string) string // what a command has written
	shown map[*step]bool
	said  map[string]bool // statuses that were printed
}

func newPlainPrinter(w io.Writer, show func(string) string) *plainPrinter {
	return &plainPrinter{w: w, show: show, shown: map[*step]bool{}, said: map[string]bool{}}
}

// Event implements BuildPrinter.
func (p *plainPrinter) Event(e solver.Event) {
	s := p.steps.apply(e)
	if e.Kind != solver.Started && !p.shown[s] {
		p.shown[s] = true
		fmt.Fprintf(p.w, "#%d %s\n", s.number, s.name)
	}
	switch e.Kind {
	case solver.Log:
		p.log(s, e, s.lines(e.Stream, e.Data))
	case solver.Progress:
		p.status(s, e.Status)
	case solver.Cached:
		fmt.Fprintf(p.w, "#%d CACHED\n\n", s.number)
	case solver.Skipped:
		fmt.Fprintf(p.w, "#%d SKIPPED\n\n", s.number)
	case solver.Completed:
		p.log(s, e, s.rest())
		switch {
		case errors.Is(e.Err, context.Canceled):
			fmt.Fprintf(p.w, "#%d CANCELED\n\n", s.number)
		case e.Err != nil:
			fmt.Fprintf(p.w, "#%d ERROR: %v\n\n", s.number, e.Err)
		default:
			fmt.Fprintf(p.w, "#%d DONE %.1fs\n\n", s.number, s.since(e.Time))
		}
	}
}

func (p *plainPrinter) log(s *step, e solver.Event, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(p.w, "#%d %.3f %s\n", s.number, s.since(e.Time), p.show(line))
	}
}

// status prints a thing that is worked on when it begins and when it is done.
func (p *plainPrinter) status(s *step, st solver.Status) {
	word := ""
	if st.Done {
		word = " done"
	}
	key := fmt.Sprint(s.number, st.ID, st.Done)
	if p.said[key] {
		return
	}
	p.said[key] = true
	line := fmt.Sprintf("#%d %s %s", s.number, st.ID, transferred(st))
	fmt.Fprintln(p.w, strings.TrimRight(line, " ")+word)
}

// Warn implements BuildPrinter.
func (p *plainPrinter) Warn(w dockerfile.Warning) { fmt.Fprintf(p.w, "WARNING: %s\n", warning(w)) }

// Close implements BuildPrinter.
func (p *plainPrinter) Close() {}
