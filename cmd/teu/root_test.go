package main

import (
	"io"
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
		{"-H unix:///run/rm --context run ps", "ps"},
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

// TestLostResults makes standard output a full disk: a command whose results are lost has failed.
func TestLostResults(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"version"}, {"--version"}} {
		heard, said, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		code := execute(t.Context(), ui.New(os.Stdin, full, said), args)
		said.Close()
		text, _ := io.ReadAll(heard)
		heard.Close()
		if code != 1 || !strings.Contains(string(text), "no space left on device") {
			t.Errorf("teu %s: exit code %d, %q", args[0], code, text)
		}
	}
}
