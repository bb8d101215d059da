//go:build !front && !porter

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

// TestManual makes the pages of all commands: each has its flags and examples, and is text
// that groff shows without a complaint.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	a := newApp(ui.New(os.Stdin, os.Stdout, os.Stderr))
	root := newRootCommand(a, commands())
	if err := writeManual(root, dir); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		page, err := os.ReadFile(filepath.Join(dir, pageName(cmd)+".1"))
		if err != nil {
			t.Error(err)
		}
		pages++
		for line := range strings.Lines(string(page)) {
			if request, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(line, "'") ||
				strings.HasPrefix(line, ".") && !strings.Contains(".TH .SH .B .BR .TP .nf .fi", request) {
				t.Errorf("%s: the line %q is a request", pageName(cmd), line)
			}
		}
		for _, sub := range pagesBelow(cmd) {
			check(sub)
		}
	}
	check(root)
	if files, err := filepath.Glob(filepath.Join(dir, "*.1")); err != nil || len(files) != pages || pages < 80 {
		t.Errorf("%d pages for %d commands, %v", len(files), pages, err)
	}
	out, err := exec.Command("groff", "-ww", "-man", "-Tascii", "-P-c", filepath.Join(dir, "teu-run.1")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := strings.ReplaceAll(string(out), "\b", "")
	for _, want := range []string{"teu run", "--network", "-v, --volume", "EXAMPLES", "SEE ALSO"} {
		if !strings.Contains(unstruck(string(out)), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// unstruck takes the overstriking of a terminal's bold and underlined letters away.
func unstruck(text string) string {
	var b []rune
	for _, r := range text {
		if r == '\b' && len(b) > 0 {
			b = b[:len(b)-1]
			continue
		}
		b = append(b, r)
	}
	return string(b)
}
