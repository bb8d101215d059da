package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain text…": "plain text…", "\x1b]0;title\a": `\x1b]0;title\a`, "a\tb\nc": `a\tb\nc`, "\x9b31m": `\x9b31m`,
		"\u009b31m": `\u009b31m`, "a\u202eb": `a\u202eb`, "\ufffd": "�", "it's": "it's",
	} {
		if got := Visible(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// JSON for a terminal is the same JSON.
func TestVisibleJSON(t *testing.T) {
	const text = "{\n\t\"a\u202eb\": [\"\u009b31m\", \"\x7f\", \"\\u001b\", \"…\U000e0001\"]\n}\n"
	got := visibleJSON([]byte(text))
	if bytes.ContainsFunc(got, hiddenInJSON) {
		t.Errorf("%q", got)
	}
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(text), &x), json.Unmarshal(got, &y)); err != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("%q: %v", got, err)
	}
}

// No cell of a table reaches the terminal, or makes another cell.
func TestTablesAreText(t *testing.T) {
	table := Table{Fields: []Field{{Name: "A", Header: "A"}, {Name: "B", Header: "B"}}, Default: []string{"A", "B"}}
	for _, format := range []string{"", "table {{.A}}\t{{.B}}"} {
		var b bytes.Buffer
		if err := writeList(&b, table, format, slices.Values([]Row{{"A": "\x1b[2J", "B": "x\ty\nz"}})); err != nil {
			t.Fatal(err)
		}
		if got, want := b.String(), "A         B\n\\x1b[2J   x\\ty\\nz\n"; got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

// What others have made up does nothing to a terminal, wherever it is printed; a pipe gets it as it is.
func TestTerminalsGetText(t *testing.T) {
	const evil, own = "\x1b]0;owned\a\x1b[2J\u009b31m", "\x1b[32m" // U+009B is ESC [ to some
	table := Table{Fields: []Field{{Name: "A", Header: "A"}}, Default: []string{"A"}}
	show := func(u *UI) {
		u.Notef("%s", evil)
		u.Warnf("%s", evil)
		u.Printf("%s\n", evil)
		u.Println(evil)
		u.Error(&hinted{errors.New(evil)})
		u.BuildError(&build.Error{Step: evil, Output: []byte(evil), Where: []graph.Location{{File: evil, Text: []byte(evil), Start: 1, End: 1}}})
		p, err := u.BuildPrinter("plain")
		if err != nil {
			t.Fatal(err)
		}
		p.Event(solver.Event{Kind: solver.Started, Vertex: "v", Name: evil})
		p.Event(solver.Event{Kind: solver.Log, Vertex: "v", Data: []byte(evil + "\n"), Time: time.Now()})
		p.Event(solver.Event{Kind: solver.Completed, Vertex: "v", Err: errors.New(evil)})
		p.Close()
		for _, format := range []string{"", "{{.A}}", own + "{{.A}}", "table " + own + "{{.A}}", "json"} {
			if err := u.List(table, format, []Row{{"A": evil}}); err != nil {
				t.Fatal(err)
			}
		}
		type inner struct{ A []string }
		for _, o := range []any{map[string]string{"A": evil}, struct{ A *inner }{&inner{[]string{evil}}}, map[string]any{"A": []any{evil}}} {
			for _, format := range []string{own + "{{.A}}{{json .}}", "", "json"} {
				if err := u.Inspect(format, []any{o}); err != nil {
					t.Fatal(err)
				}
			}
			if err := u.JSONLine(o); err != nil {
				t.Fatal(err)
			}
			if err := u.Line(template.Must(ParseTemplate(own+"{{.A}}")), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // ends with an error when nobody has the other end
		got <- string(text)
	}()
	show(New(nil, screen, screen))
	screen.Close()
	text := <-got
	if n := strings.Count(text, own); n != 9 {
		t.Errorf("the terminal got the template's colour %d times, want in two lines, a heading and three objects twice: %q", n, text)
	}
	if text = strings.ReplaceAll(text, own, ""); strings.ContainsAny(text, "\x1b\a\u009b") || strings.Count(text, `\x1b]0;owned`) < 8 {
		t.Errorf("the terminal got %q", text)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	show(New(nil, w, w))
	w.Close()
	if text, err := io.ReadAll(r); err != nil || strings.Count(string(text), evil) < 10 {
		t.Errorf("the pipe got %q, %v", text, err)
	}
}

type hinted struct{ error }

func (h *hinted) Hint() string { return h.Error() }
