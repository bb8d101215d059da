package coldjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An encoder writes one document. Its methods return false for what is to be left to encoding/json.
type encoder struct {
	buf   []byte
	depth int
}

func (e *encoder) value(v reflect.Value) bool {
	if e.depth++; e.depth > maxDepth {
		return false
	}
	defer func() { e.depth-- }()
	t := v.Type()
	switch kind := t.Kind(); {
	case has(t, marshaler), has(t, textMarshaler):
		return e.self(v)
	case kind == reflect.Pointer || kind == reflect.Interface:
		if v.IsNil() {
			return e.null()
		}
		return e.value(v.Elem())
	case kind == reflect.Struct:
		return e.object(v)
	case kind == reflect.Map:
		return e.mapping(v)
	case kind == reflect.Slice:
		return e.list(v)
	case kind == reflect.String:
		return e.text(v.String())
	case kind == reflect.Bool:
		e.buf = strconv.AppendBool(e.buf, v.Bool())
		return true
	case v.CanInt():
		e.buf = strconv.AppendInt(e.buf, v.Int(), 10)
		return true
	case v.CanUint():
		e.buf = strconv.AppendUint(e.buf, v.Uint(), 10)
		return true
	}
	return false
}

func (e *encoder) null() bool {
	e.buf = append(e.buf, "null"...)
	return true
}

// self writes a value that encodes itself as a string. A nil pointer might be null.
func (e *encoder) self(v reflect.Value) bool {
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		return false
	}
	switch from := v.Interface().(type) {
	case time.Time:
		b, err := from.MarshalJSON()
		e.buf = append(e.buf, b...)
		return err == nil
	case encoding.TextMarshaler:
		if has(v.Type(), marshaler) {
			return false
		}
		b, err := from.MarshalText()
		return err == nil && e.text(string(b))
	}
	return false
}

func (e *encoder) object(v reflect.Value) bool {
	fields := fieldsOf(v.Type())
	if fields == nil {
		return false
	}
	e.buf = append(e.buf, '{')
	first := true
	for i := range fields {
		f := &fields[i]
		value := v.FieldByIndex(f.index)
		if f.omitEmpty && empty(value) || f.omitZero && (value.IsZero() || f.isZero && value.Interface().(interface{ IsZero() bool }).IsZero()) {
			continue
		}
		if !first {
			e.buf = append(e.buf, ',')
		}
		first = false
		e.buf = append(e.buf, f.quoted...)
		if !e.value(value) {
			return false
		}
	}
	e.buf = append(e.buf, '}')
	return true
}

// empty is what omitempty leaves out.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func (e *encoder) mapping(v reflect.Value) bool {
	if key := v.Type().Key(); key.Kind() != reflect.String || has(key, textMarshaler) {
		return false
	}
	if v.IsNil() {
		return e.null()
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	e.buf = append(e.buf, '{')
	for i, key := range keys {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if !e.text(key.String()) {
			return false
		}
		e.buf = append(e.buf, ':')
		if !e.value(v.MapIndex(key)) {
			return false
		}
	}
	e.buf = append(e.buf, '}')
	return true
}

func (e *encoder) list(v reflect.Value) bool {
	if v.Type().Elem().Kind() == reflect.Uint8 { // base64
		return false
	}
	if v.IsNil() {
		return e.null()
	}
	e.buf = append(e.buf, '[')
	for i := range v.Len() {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if !e.value(v.Index(i)) {
			return false
		}
	}
	e.buf = append(e.buf, ']')
	return true
}

func (e *encoder) text(s string) bool {
	if !plain(s) {
		b, err := json.Marshal(s)
		e.buf = append(e.buf, b...)
		return err == nil
	}
	e.buf = append(append(append(e.buf, '"'), s...), '"')
	return true
}
