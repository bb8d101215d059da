package coldjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// A decoder reads one document. Its methods return false for what is to be left to encoding/json.
type decoder struct {
	data  []byte
	pos   int
	depth int
}

// next skips white space and returns the byte there, 0 at the end.
func (d *decoder) next() byte {
	for ; d.pos < len(d.data); d.pos++ {
		switch c := d.data[d.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take skips white space and c, if it is there.
func (d *decoder) take(c byte) bool {
	if d.next() != c {
		return false
	}
	d.pos++
	return true
}

func (d *decoder) literal(s string) bool {
	if len(d.data)-d.pos < len(s) || string(d.data[d.pos:d.pos+len(s)]) != s {
		return false
	}
	d.pos += len(s)
	return true
}

// value reads a value into v, which is zero and can be set.
func (d *decoder) value(v reflect.Value) bool {
	if d.depth++; d.depth > maxDepth {
		return false
	}
	defer func() { d.depth-- }()
	c, t := d.next(), v.Type()
	switch kind := t.Kind(); {
	case has(t, unmarshaler), has(t, textUnmarshaler):
		return c == '"' && d.self(v)
	case c == 'n':
		return d.literal("null") // which leaves everything as it is
	case kind == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		return d.value(v.Elem())
	case kind == reflect.Struct:
		return d.object(v)
	case kind == reflect.Map:
		return d.mapping(v)
	case kind == reflect.Slice:
		return d.list(v)
	case kind == reflect.String:
		s, ok := d.text()
		v.SetString(s)
		return ok
	case kind == reflect.Bool:
		v.SetBool(c == 't')
		return d.literal(strconv.FormatBool(c == 't'))
	case v.CanInt():
		n, err := strconv.ParseInt(d.integer(), 10, t.Bits())
		v.SetInt(n)
		return err == nil
	case v.CanUint():
		n, err := strconv.ParseUint(d.integer(), 10, t.Bits())
		v.SetUint(n)
		return err == nil
	}
	return false
}

// self gives a string to a type that decodes itself.
func (d *decoder) self(v reflect.Value) bool {
	from := d.pos
	s, ok := d.text()
	if !ok || !v.CanAddr() {
		return false
	}
	switch to := v.Addr().Interface().(type) {
	case json.Unmarshaler:
		return to.UnmarshalJSON(d.data[from:d.pos]) == nil
	case encoding.TextUnmarshaler:
		return to.UnmarshalText([]byte(s)) == nil
	}
	return false
}

func (d *decoder) object(v reflect.Value) bool {
	fields := fieldsOf(v.Type())
	if fields == nil {
		return false
	}
	seen := make([]bool, len(fields))
	next := 0 // most documents have their fields in this order
	return d.each('{', '}', func() bool {
		name, escaped, ok := d.raw()
		if !ok || escaped || !d.take(':') {
			return false
		}
		for range fields {
			if next == len(fields) {
				next = 0
			}
			i := next
			next++
			if fields[i].name == string(name) && !seen[i] {
				seen[i] = true
				return d.value(v.FieldByIndex(fields[i].index))
			}
		}
		return false
	})
}

func (d *decoder) mapping(v reflect.Value) bool {
	t := v.Type()
	if t.Key().Kind() != reflect.String || has(t.Key(), textUnmarshaler) {
		return false
	}
	v.Set(reflect.MakeMap(t))
	return d.each('{', '}', func() bool {
		name, ok := d.text()
		if !ok || !d.take(':') {
			return false
		}
		key, elem := reflect.ValueOf(name).Convert(t.Key()), reflect.New(t.Elem()).Elem()
		if v.MapIndex(key).IsValid() || !d.value(elem) {
			return false
		}
		v.SetMapIndex(key, elem)
		return true
	})
}

func (d *decoder) list(v reflect.Value) bool {
	if v.Type().Elem().Kind() == reflect.Uint8 { // base64
		return false
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return d.each('[', ']', func() bool {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		return d.value(v.Index(n))
	})
}

// each calls fn at every item between two brackets.
func (d *decoder) each(begin, end byte, fn func() bool) bool {
	if !d.take(begin) {
		return false
	}
	if d.take(end) {
		return true
	}
	for {
		if !fn() {
			return false
		}
		if d.take(end) {
			return true
		}
		if !d.take(',') {
			return false
		}
	}
}

// text reads a string.
func (d *decoder) text() (text string, ok bool) {
	d.next()
	from := d.pos
	s, escaped, ok := d.raw()
	if escaped {
		return text, ok && json.Unmarshal(d.data[from:d.pos], &text) == nil
	}
	return string(s), ok
}

// raw reads a string as it is written between its quotes.
func (d *decoder) raw() (s []byte, escaped, ok bool) {
	if !d.take('"') {
		return nil, false, false
	}
	from, ascii := d.pos, true
	for ; d.pos < len(d.data); d.pos++ {
		switch c := d.data[d.pos]; {
		case c == '"':
			s = d.data[from:d.pos]
			d.pos++
			return s, escaped, ascii || escaped || utf8.Valid(s)
		case c == '\\':
			escaped = true
			d.pos++
		case c < ' ':
			return nil, false, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false, false
}

// integer reads a number without a fraction or an exponent, "" if there is none.
func (d *decoder) integer() string {
	from := d.pos
	if d.pos < len(d.data) && d.data[d.pos] == '-' {
		d.pos++
	}
	digits := d.pos
	for d.pos < len(d.data) && '0' <= d.data[d.pos] && d.data[d.pos] <= '9' {
		d.pos++
	}
	if n := d.pos - digits; n == 0 || n > 1 && d.data[digits] == '0' {
		return ""
	}
	return string(d.data[from:d.pos]) // what is wrong behind it is seen by who reads on
}
