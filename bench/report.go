package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// result is what one tool did in one figure.
type result struct {
	tool   string
	values []float64
	failed string // why there are no values
}

// figure is one table of the report.
type figure struct {
	title, unit, note string
	more              bool // more is better
	results           []result
}

// report is docs/benchmarks.md: a section for each subject, which is one run of all its
// tools. A subject that is measured again replaces its section only.
type report struct {
	sections map[string]string
	subject  string // being measured
}

// marker begins the section of a subject.
const marker = "\n<!-- subject: "

// readReport reads the sections of an earlier report. There may be none.
func readReport(file string) (*report, error) {
	r := &report{sections: map[string]string{}}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, part := range strings.Split(string(text), marker)[1:] {
		if subject, section, ok := strings.Cut(part, " -->\n"); ok {
			r.sections[subject] = section
		}
	}
	return r, nil
}

// begin starts the section of a subject.
func (r *report) begin(subject string) {
	r.subject = subject
	r.sections[subject] = fmt.Sprintf("\n## %s\n\nMeasured %s.\n", subject, time.Now().UTC().Format(time.DateOnly))
}

func (r *report) add(f figure) {
	r.sections[r.subject] += f.String()
	fmt.Fprint(os.Stderr, f.String())
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}

// String renders the table. The ratio says how many times teu's figure the tool's is.
func (f figure) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n", f.title)
	if f.note != "" {
		fmt.Fprintf(&b, "%s\n\n", f.note)
	}
	fmt.Fprintf(&b, "| tool | median, %s | best – worst | rounds | times teu |\n|---|---|---|---|---|\n", f.unit)
	own := 0.0
	if len(f.results) > 0 && len(f.results[0].values) > 0 {
		own = median(f.results[0].values)
	}
	for _, r := range f.results {
		if len(r.values) == 0 {
			fmt.Fprintf(&b, "| %s | – | %s | 0 | – |\n", r.tool, r.failed)
			continue
		}
		m, low, high := median(r.values), slices.Min(r.values), slices.Max(r.values)
		if f.more {
			low, high = high, low
		}
		ratio := "–"
		if own > 0 {
			ratio = fmt.Sprintf("%.2f", m/own)
		}
		fmt.Fprintf(&b, "| %s | %s | %s – %s | %d | %s |\n", r.tool, number(m), number(low), number(high), len(r.values), ratio)
	}
	return b.String()
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// String renders docs/benchmarks.md.
func (r *report) String() string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWhat `make bench` measured. A section is one run: every tool once per round, medians over the " +
		"rounds, losses too. Generated; do not edit.\n\n")
	var uts unix.Utsname
	unix.Uname(&uts)
	fmt.Fprintf(&b, "Machine: %d cores, Linux %s, %s/%s. Data on a fresh ext4 with a journal, on a loop device in memory. teu is a copy, as a package would install it.\n",
		runtime.NumCPU(), unix.ByteSliceToString(uts.Release[:]), runtime.GOOS, runtime.GOARCH)
	b.WriteString("\nVersions: " + strings.Join(versions(), "; ") + ".\n")
	for _, f := range figures {
		if section := r.sections[f.name]; section != "" {
			b.WriteString(marker + f.name + " -->\n" + section)
		}
	}
	return b.String()
}

// versions asks every tool of Debian for its version; the others are in bench/tools/go.mod.
func versions() (list []string) {
	for _, c := range [][]string{
		{"podman", "--version"}, {"buildah", "--version"}, {"crun", "--version"}, {"runc", "--version"}, {"dockerd", "--version"}, {"go", "version"},
	} {
		out, err := exec.Command(c[0], c[1:]...).Output()
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(out), "\n")
		list = append(list, first)
	}
	return append(list, "buildkit, distribution, nerdctl: see bench/tools")
}
