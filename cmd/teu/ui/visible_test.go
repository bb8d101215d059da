package ui

import (
	"bytes"
	"slices"
	"testing"
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
