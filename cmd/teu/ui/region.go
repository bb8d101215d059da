//go:build !front

package ui

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// What all have in common that draw a region of lines on a terminal again and again.

const interval = 100 * time.Millisecond // between two drawings

// size formats bytes as docker does.
func size(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f%cB", f, units[i])
}

// cut shortens text to columns, which must not wrap or the region could not be found again.
func cut(text string, columns int) string {
	r := []rune(text)
	if len(r) > max(columns, 1) {
		r = r[:max(columns, 1)]
	}
	return string(r)
}

// printable takes out of text what would move the cursor or change the terminal: it was written by
// the processes of a build, or by a registry.
func printable(text string) string {
	text = strings.ReplaceAll(text, "\t", "    ")
	var b strings.Builder
	escape := false
	for _, r := range text {
		switch {
		case r == 0x1b:
			escape = true
		case escape:
			escape = !unicode.IsLetter(r) // ends a sequence such as ESC [ 1 m
		case unicode.IsPrint(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}
