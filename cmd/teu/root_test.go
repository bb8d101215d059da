package main

import (
	"os"
	"strings"
	"testing"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

// TestCommandNames: a command is found by the name in the list before it is made, so the
// two must be one. (An alias takes longer: all commands are made to find it.)
func TestCommandNames(t *testing.T) {
	a := newApp(ui.New(os.Stdin, os.Stdout, os.Stderr))
	for _, c := range commands() {
		if made := c.make(a); made.Name() != c.name {
			t.Errorf("the list says %q, the command %q", c.name, made.Name())
		}
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // "" for all
	}{
		{"run --rm x", "run"},
		{"--root /x run", "run"},
		{"--root=/x -D --no-color ps -a", "ps"},
		{"--config run images", "images"},
		{"help run", ""},
		{"rum", ""},
		{"", ""},
		{"--help", ""},
	} {
		got := readCommandLine(strings.Fields(c.args)).wanted()
		if c.want == "" && len(got) == len(commands()) {
			continue
		}
		if len(got) != 1 || got[0].name != c.want {
			t.Errorf("%q: got %d commands, the first %s; want %q", c.args, len(got), got[0].name, c.want)
		}
	}
}
