//go:build !front && !porter

package ui

import (
	"fmt"
	"strings"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
)

// BuildError shows what an error of a build knows beyond its text: the last that the step
// printed, and its lines in the Dockerfile.
func (u *UI) BuildError(e *build.Error) {
	if out := strings.TrimRight(string(e.Output), "\n"); out != "" {
		const most = 20
		lines := strings.Split(out, "\n")
		w, show := u.errText(), u.commandText()
		fmt.Fprintf(w, "------\n > %s:\n", oneLine(e.Step))
		for _, line := range lines[max(len(lines)-most, 0):] {
			fmt.Fprintln(w, show(line))
		}
		fmt.Fprintln(w, "------")
	}
	if len(e.Where) > 0 {
		fmt.Fprint(u.errText(), excerpt(e.Where))
	}
}

// excerpt prints the lines of places, which are in one file, with some around them:
//
//	Dockerfile:3
//	--------------------
//	   2 |     COPY . .
//	   3 | >>> RUN make
//	--------------------
func excerpt(places []graph.Location) string {
	first := places[0]
	start, end := first.Start, first.End
	marked := func(n int) bool {
		for _, p := range places {
			if p.File == first.File && p.Start <= n && n <= p.End {
				return true
			}
		}
		return false
	}
	lines := strings.Split(strings.TrimRight(string(first.Text), "\n"), "\n")
	const around, mostLines, mostBytes = 2, 200, 2000
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", first.File, start)
	from, to := max(start-around, 1), min(end+around, len(lines))
	for n := from; n <= to; n++ {
		if n == from+mostLines {
			fmt.Fprintf(&b, "     |     [%d lines left out]\n", to-n+1)
			break
		}
		mark := "   "
		if marked(n) {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, shortened(strings.TrimRight(lines[n-1], "\r"), mostBytes))
	}
	b.WriteString("--------------------\n")
	return b.String()
}
