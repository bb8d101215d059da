package ui

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Visible shows what is no text as Go would write it: images and containers may have names,
// commands and files that would move the cursor, or change the terminal.
func Visible(text string) string {
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case hidden(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

func hidden(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }

// visibleLines is Visible of text that has lines and tabs.
func visibleLines(text string) string {
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		end := strings.IndexAny(text, "\n\t")
		if end < 0 {
			end = len(text)
		}
		b.WriteString(Visible(text[:end]))
		text = text[end:]
		if text != "" {
			b.WriteByte(text[0])
			text = text[1:]
		}
	}
	return b.String()
}

// textFor returns w, or for a terminal a writer of visibleLines. What is written at once must be whole characters.
func textFor(w io.Writer, terminal bool) io.Writer {
	if terminal {
		return textWriter{w}
	}
	return w
}

type textWriter struct{ w io.Writer }

func (t textWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(t.w, visibleLines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
