// Package coldjson is encoding/json for a process that is about to end.
//
// encoding/json prepares for a long life: the first time it meets a type it makes a codec for it
// and for every type that could be reached from it. For a container's record that takes 0.5 ms and
// for a runtime spec 0.8 ms, of a command that takes 7 in all; decoding the document itself takes
// 0.03. This package looks only at types that a document really has.
//
// Its results are those of encoding/json, because whatever is out of the ordinary is left to
// encoding/json: documents with errors, keys that are unknown or written in another case or twice,
// numbers with a fraction, types that decode themselves. A fuzz target holds both against each other.
package coldjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Marshal is json.Marshal.
func Marshal(v any) ([]byte, error) {
	e := encoder{buf: make([]byte, 0, 1024)}
	if v != nil && e.value(reflect.ValueOf(v)) {
		return e.buf, nil
	}
	return json.Marshal(v)
}

// Unmarshal is json.Unmarshal.
func Unmarshal(data []byte, v any) error {
	to := reflect.ValueOf(v)
	// What is there already would be merged with; that is out of the ordinary, too.
	if to.Kind() == reflect.Pointer && !to.IsNil() && to.Elem().IsZero() {
		d := decoder{data: data}
		if d.value(to.Elem()) && d.next() == 0 && d.pos == len(data) {
			return nil
		}
		to.Elem().SetZero()
	}
	return json.Unmarshal(data, v)
}

// maxDepth is how deep a value may be nested here.
const maxDepth = 100

// A field is one that a struct has in JSON.
type field struct {
	name      string
	quoted    string // "name": as it is written
	index     []int
	omitEmpty bool
	omitZero  bool
	isZero    bool // by its method IsZero
}

// structs are the fields of struct types by reflect.Type; nil for those that are left alone. What is
// true of a type stays true, so that whoever asks for it may remember it.
var structs sync.Map

func fieldsOf(t reflect.Type) []field {
	if known, ok := structs.Load(t); ok {
		return known.([]field)
	}
	fields, ok := appendFields(make([]field, 0, t.NumField()), t, nil)
	for i, f := range fields {
		if slices.ContainsFunc(fields[:i], func(g field) bool { return g.name == f.name }) {
			ok = false // which of them counts is not for us to say
		}
	}
	if !ok {
		fields = nil
	}
	structs.Store(t, fields)
	return fields
}

// appendFields adds those of t, a struct at index of another, in the order of encoding/json. ok is
// false if something about them is unusual.
func appendFields(fields []field, t reflect.Type, index []int) (_ []field, ok bool) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag := sf.Tag.Get("json")
		if tag == "-" || !sf.IsExported() && !sf.Anonymous {
			continue
		}
		at := append(index[:len(index):len(index)], i)
		name, options, _ := strings.Cut(tag, ",")
		if sf.Anonymous && name == "" {
			if sf.Type.Kind() != reflect.Struct || len(at) > 4 {
				return nil, false
			}
			if fields, ok = appendFields(fields, sf.Type, at); !ok {
				return nil, false
			}
			continue
		}
		if !sf.IsExported() {
			return nil, false
		}
		f := field{name: name, index: at}
		if name == "" {
			f.name = sf.Name
		}
		if !plain(f.name) {
			return nil, false
		}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "":
			case "omitempty":
				f.omitEmpty = true
			case "omitzero":
				f.omitZero, f.isZero = true, sf.Type.Implements(zeroer)
				if sf.Type.Kind() == reflect.Interface || !f.isZero && reflect.PointerTo(sf.Type).Implements(zeroer) {
					return nil, false
				}
			default:
				return nil, false
			}
		}
		f.quoted = `"` + f.name + `":`
		fields = append(fields, f)
	}
	return fields, true
}

// plain says that a string stands in JSON as it is, and in no other way in what encoding/json writes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

var (
	marshaler       = &methods{of: reflect.TypeFor[json.Marshaler]()}
	textMarshaler   = &methods{of: reflect.TypeFor[encoding.TextMarshaler]()}
	unmarshaler     = &methods{of: reflect.TypeFor[json.Unmarshaler]()}
	textUnmarshaler = &methods{of: reflect.TypeFor[encoding.TextUnmarshaler]()}
	zeroer          = reflect.TypeFor[interface{ IsZero() bool }]()
)

// methods are those of an interface.
type methods struct {
	of  reflect.Type
	had sync.Map // reflect.Type -> bool: what has found out, for processes that read many documents
}

// has says whether t, or a pointer to it, has the methods of an interface. A type that no package
// declares has none, unless it is a struct with others inside.
func has(t reflect.Type, m *methods) bool {
	if t.PkgPath() == "" && t.Kind() != reflect.Struct {
		return false
	}
	had, known := m.had.Load(t)
	if !known {
		had = t.Implements(m.of) || reflect.PointerTo(t).Implements(m.of)
		m.had.Store(t, had)
	}
	return had.(bool)
}
