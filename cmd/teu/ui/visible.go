package ui

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
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

// visibleJSON shows what JSON does not escape by itself, such as the controls from U+0080 on, as its escapes.
func visibleJSON(text []byte) []byte {
	if !bytes.ContainsFunc(text, hiddenInJSON) {
		return text
	}
	var b []byte
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if hiddenInJSON(r) {
			for _, unit := range utf16.Encode([]rune{r}) {
				b = fmt.Appendf(b, `\u%04x`, unit)
			}
		} else {
			b = append(b, text[:n]...)
		}
		text = text[n:]
	}
	return b
}

func hiddenInJSON(r rune) bool { return hidden(r) && r != '\n' && r != '\t' }

// visibleValue is a copy of a value in which all text is visible, as visibleLines has it.
func visibleValue(v reflect.Value) reflect.Value {
	n := reflect.New(v.Type()).Elem()
	n.Set(v)
	switch v.Kind() {
	case reflect.String:
		n.SetString(visibleLines(v.String()))
	case reflect.Pointer:
		if !v.IsNil() {
			n.Set(reflect.New(v.Type().Elem()))
			n.Elem().Set(visibleValue(v.Elem()))
		}
	case reflect.Interface:
		if !v.IsNil() {
			n.Set(visibleValue(v.Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				n.Field(i).Set(visibleValue(v.Field(i)))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			n.Index(i).Set(visibleValue(v.Index(i)))
		}
	case reflect.Slice:
		if !v.IsNil() {
			n.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				n.Index(i).Set(visibleValue(v.Index(i)))
			}
		}
	case reflect.Map:
		if !v.IsNil() {
			n.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			for key, value := range v.Seq2() {
				n.SetMapIndex(visibleValue(key), visibleValue(value))
			}
		}
	}
	return n
}

// textFor returns w, or for a terminal a writer of visibleLines. What is written at once must be whole characters.
func textFor(w io.Writer, terminal bool) io.Writer {
	if terminal {
		return textWriter{w}
	}
	return w
}

// jsonFor returns w, or for a terminal a writer of visibleJSON. What is written at once must be whole characters.
func jsonFor(w io.Writer, terminal bool) io.Writer {
	if terminal {
		return jsonWriter{w}
	}
	return w
}

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(p []byte) (int, error) {
	if _, err := j.w.Write(visibleJSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

type textWriter struct{ w io.Writer }

func (t textWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(t.w, visibleLines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
