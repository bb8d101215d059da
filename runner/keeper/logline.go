package keeper

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// LogLine is a line of the log. The fields are parts of it.
type LogLine struct {
	Text, Stream, Time []byte
	Attrs              []byte // a JSON object, if the line has one
	Newline            bool   // Text ends with one that is not in it
}

// ParseLogLine parses a line as a keeper and docker write it, many times as fast as
// encoding/json does. A text with escapes is undone into scratch. ok says whether it was
// such a line.
func ParseLogLine(line []byte, scratch *[]byte) (l LogLine, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
	if !ok {
		return l, false
	}
	// Behind the text are no escapes but those of attrs, so its end is found from the end of the line.
	if rest, ok = bytes.CutSuffix(rest, []byte(`"}`)); !ok {
		return l, false
	}
	if rest, l.Time, ok = cutLast(rest, `,"time":"`); !ok {
		return l, false
	}
	if rest, l.Attrs, ok = cutAttrs(rest); !ok {
		return l, false
	}
	if l.Text, l.Stream, ok = cutLast(rest, `","stream":"`); !ok {
		return l, false
	}
	if text, cut := bytes.CutSuffix(l.Text, []byte(`\n`)); cut && !endsInBackslash(text) { // else it is an escaped backslash, then an n
		l.Text, l.Newline = text, true
	}
	if bytes.IndexByte(l.Text, '\\') < 0 {
		return l, bytes.IndexByte(l.Text, '"') < 0
	}
	*scratch, ok = unescape((*scratch)[:0], l.Text)
	l.Text = *scratch
	return l, ok
}

// cutAttrs cuts attrs off, and the quote before them. Its values are strings: none of its keys looks like it.
func cutAttrs(b []byte) (before, attrs []byte, ok bool) {
	if before, ok = bytes.CutSuffix(b, []byte{'"'}); ok {
		return before, nil, true
	}
	const mark = `","attrs":`
	i := bytes.LastIndex(b, []byte(mark+"{"))
	if i < 0 || b[len(b)-1] != '}' {
		return nil, nil, false
	}
	return b[:i], b[i+len(mark):], true
}

// cutLast cuts around mark, which ends in a quote, if it ends at the last quote of b. What is
// behind it has no escapes.
func cutLast(b []byte, mark string) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, '"') + 1
	if i < len(mark) || string(b[i-len(mark):i]) != mark || bytes.IndexByte(b[i:], '\\') >= 0 {
		return nil, nil, false
	}
	return b[:i-len(mark)], b[i:], true
}

// endsInBackslash says whether text ends in a backslash that escapes what follows it.
func endsInBackslash(text []byte) bool {
	return (len(text)-len(bytes.TrimRight(text, `\`)))%2 == 1
}

// unescape appends to out what the inside of a JSON string stands for (RFC 8259, section
// 7). ok is false for what encoding/json is better asked about, halves of pairs first of all.
func unescape(out, text []byte) (_ []byte, ok bool) {
	for {
		i := bytes.IndexByte(text, '\\')
		plain := text
		if i >= 0 {
			plain = text[:i]
		}
		if bytes.IndexByte(plain, '"') >= 0 {
			return out, false
		}
		out = append(out, plain...)
		if i < 0 {
			return out, true
		}
		if text = text[i+1:]; len(text) == 0 {
			return out, false
		}
		c := text[0]
		text = text[1:]
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'u':
			if len(text) < 4 {
				return out, false
			}
			r, err := strconv.ParseUint(string(text[:4]), 16, 16)
			if err != nil || utf16.IsSurrogate(rune(r)) {
				return out, false
			}
			out, text = utf8.AppendRune(out, rune(r)), text[4:]
		default:
			return out, false
		}
	}
}
