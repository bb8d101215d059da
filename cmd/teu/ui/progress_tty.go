//go:build !front && !porter

package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A ttyPrinter draws a region that changes: a heading, the steps, and below each that runs the
// last lines it printed. When the build ends the region becomes a list of the steps.
type ttyPrinter struct {
	u    *UI
	w    io.Writer
	stop chan struct{}
	done chan struct{}

	mu       sync.Mutex
	steps    steps
	logs     map[*step][]string
	warnings []string
	began    time.Time
	drawn    int // lines of the region on the screen
}

const logLines = 5 // shown of a step that runs

func newTTYPrinter(u *UI) *ttyPrinter {
	p := &ttyPrinter{u: u, w: u.Err, stop: make(chan struct{}), done: make(chan struct{}), logs: map[*step][]string{}, began: time.Now()}
	go p.tick()
	return p
}

// tick draws until Close.
func (p *ttyPrinter) tick() {
	defer close(p.done)
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-t.C:
			p.mu.Lock()
			columns, rows := p.u.Size()
			p.draw(p.region(now, columns, rows))
			p.mu.Unlock()
		}
	}
}

// Event implements BuildPrinter.
func (p *ttyPrinter) Event(e solver.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.steps.apply(e)
	if e.Kind != solver.Log {
		return
	}
	for _, line := range s.lines(e.Stream, e.Data) {
		p.logs[s] = append(p.logs[s], printable(line))
	}
	if extra := len(p.logs[s]) - logLines; extra > 0 {
		p.logs[s] = p.logs[s][extra:]
	}
}

// Warn implements BuildPrinter.
func (p *ttyPrinter) Warn(w dockerfile.Warning) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, "WARNING: "+printable(warning(w)))
}

// Close implements BuildPrinter.
func (p *ttyPrinter) Close() {
	close(p.stop)
	<-p.done
	columns, _ := p.u.Size()
	now := time.Now()
	lines := []string{p.heading(now, columns)}
	for _, s := range p.steps.list {
		lines = append(lines, p.line(s, now, columns))
	}
	p.draw(append(lines, p.warnings...))
}

// draw replaces the region by lines.
func (p *ttyPrinter) draw(lines []string) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, line := range lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	io.WriteString(p.w, b.String())
	p.drawn = len(lines)
}

// region returns the lines that fit on the screen: the heading and the latest of the rest.
func (p *ttyPrinter) region(now time.Time, columns, rows int) []string {
	var lines []string
	for _, s := range p.steps.list {
		lines = append(lines, p.line(s, now, columns))
		if !s.ended.IsZero() {
			continue
		}
		for _, st := range s.status {
			if !st.Done && st.Total > 0 {
				lines = append(lines, cut(fmt.Sprintf(" => => %s %s", printable(st.ID), transferred(st)), columns))
			}
		}
		for _, log := range p.logs[s] {
			lines = append(lines, p.colour("2", cut(" => => # "+log, columns)))
		}
	}
	if room := max(rows-2, 1); len(lines) > room {
		lines = lines[len(lines)-room:]
	}
	return append([]string{p.heading(now, columns)}, lines...)
}

func (p *ttyPrinter) heading(now time.Time, columns int) string {
	ended := 0
	for _, s := range p.steps.list {
		if !s.ended.IsZero() {
			ended++
		}
	}
	word := ""
	if ended == len(p.steps.list) {
		word = " FINISHED"
	}
	return cut(fmt.Sprintf("[+] Building %.1fs (%d/%d)%s", now.Sub(p.began).Seconds(), ended, len(p.steps.list), word), columns)
}

// line is the one of a step: its name on the left, its time on the right.
func (p *ttyPrinter) line(s *step, now time.Time, columns int) string {
	text, colour := " => ", ""
	switch {
	case s.cached:
		text, colour = " => CACHED ", "34"
	case s.skipped:
		text = " => SKIPPED "
	case errors.Is(s.err, context.Canceled):
		text, colour = " => CANCELED ", "33"
	case s.err != nil:
		text, colour = " => ERROR ", "31"
	case !s.ended.IsZero():
		colour = "34"
	}
	end := s.ended
	if end.IsZero() {
		end = now
	}
	took := fmt.Sprintf(" %.1fs", s.since(end))
	text = cut(text+printable(s.name), columns-len(took))
	pad := max(columns-len(took)-width(text), 0)
	return p.colour(colour, text+strings.Repeat(" ", pad)+took)
}

func (p *ttyPrinter) colour(code, text string) string {
	if !p.u.Color || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
