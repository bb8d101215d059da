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
	room := max(columns, 1)
	for i, r := range text {
		if room -= cells(r); room < 0 {
			return text[:i]
		}
	}
	return text
}

// width is how many columns text takes on a terminal.
func width(text string) int {
	n := 0
	for _, r := range text {
		n += cells(r)
	}
	return n
}

// cells is how many columns a character takes: two for those of East Asia and pictures (Unicode Standard Annex 11, wide and
// fullwidth), none for marks on the one before.
func cells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.Is(unicode.Mn, r):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1f6ff, r >= 0x1f900 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
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
