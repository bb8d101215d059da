package coldjson

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type word string

type inner struct {
	Deep  int `json:"deep,omitzero"`
	Twice *inner
}

type upper struct{ N int }

// all has what documents of teu are made of, and what they are not made of.
type all struct {
	inner
	Text     string `json:"text"`
	Word     word   `json:",omitempty"`
	Yes      bool
	Small    int8
	Big      uint64 `json:",omitempty"`
	Float    float64
	Numbers  []int             `json:"numbers"`
	Bytes    []byte            `json:",omitempty"`
	Labels   map[string]string `json:",omitzero"`
	Words    map[word][]*upper
	ByNumber map[int]string `json:",omitempty"`
	Any      any            `json:",omitempty"`
	Raw      json.RawMessage
	At       time.Time  `json:",omitzero"`
	Maybe    *time.Time `json:",omitempty"`
	Address  netip.Addr `json:",omitzero"`
	Hidden   string     `json:"-"`
	Pair     [2]string
	Upper    *upper
	Took     time.Duration
	lower    string // nobody else sees it
}

// documents are seeds: each is decoded as encoding/json does.
var documents = []string{
	`{}`, `null`, `[]`, ``, ` `, `{`, `{"text"}`, `{"text":}`, `{"text":1}`, `{"text":"a",}`, `{"text":"a"} x`, "{\"text\":\"a\"}\x00",
	`{"text":"a","Word":"w","Yes":true,"Small":-128,"Big":18446744073709551615,"Float":1.5,"numbers":[1,2,3],"Bytes":"AQID"}`,
	`{"Labels":{"a":"b","c":"d"},"Words":{"x":[{"N":1},null,{}]},"ByNumber":{"1":"x"},"Any":{"a":[1,"x",null]},"Raw":{"a": [1]}}`,
	`{"At":"2026-11-22T08:00:00.123456789Z","Maybe":"2026-11-22T08:00:00+01:00","Address":"fd00::1","Pair":["a","b"],"Took":1000}`,
	` { "text" : "\u00e9\ud83d\ude00 \n\"\\\/" , "numbers" : [ 1 , -0 , 3 ] , "deep" : 4 , "Twice" : { "deep" : 5 , "Twice" : null } } `,
	`{"TEXT":"x","yes":true,"unknown":{"a":[1,2,{"b":"]}"}]}}`, `{"text":"a","text":"b"}`, `{"Labels":{"a":"b","a":"c"}}`,
	`{"Small":128}`, `{"Small":01}`, `{"Small":-}`, `{"Small":1e2}`, `{"Small":1.0}`, `{"Big":-1}`, `{"Yes":nope}`, `{"Yes":tru}`,
	`{"numbers":null,"Labels":null,"Upper":null,"Maybe":null,"At":null,"text":null,"Yes":null,"Small":null}`,
	`{"numbers":[],"Labels":{},"Words":{},"Upper":{}}`, `{"numbers":[1,]}`, `{"numbers":[,1]}`, `{"numbers":[1 2]}`, `{"Labels":{"a":}}`,
	"{\"text\":\"a\xffb\"}", "{\"text\":\"a\nb\"}", `{"text":"\x"}`, `{"text":"\ud800"}`, `{"text":"<&>\u2028"}`, `{"Hidden":"x","hidden":"y"}`,
	`{"At":"yesterday"}`, `{"Address":"1.2.3"}`, `{"Address":""}`, `{"At":1}`, `{"text":"\"`, `{"text":"\`,
	`{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0,"additionalGids":[1]},"args":["a"],"cwd":"/","capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},"root":{"path":"x"},"linux":{"namespaces":[{"type":"pid"}],"resources":{"memory":{"limit":-1}},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}},"mounts":[{"destination":"/proc","type":"proc"}],"annotations":{"a":"b"}}`,
}

// same holds both decoders, and then both encoders, against each other.
func same[T any](t *testing.T, data []byte) {
	t.Helper()
	var ours, theirs T
	ourErr, theirErr := Unmarshal(data, &ours), json.Unmarshal(data, &theirs)
	if (ourErr == nil) != (theirErr == nil) || ourErr != nil && ourErr.Error() != theirErr.Error() {
		t.Fatalf("%q: %v instead of %v", data, ourErr, theirErr)
	}
	if !reflect.DeepEqual(ours, theirs) {
		t.Fatalf("%q: %s", data, cmp.Diff(theirs, ours, cmp.Exporter(func(reflect.Type) bool { return true })))
	}
	for _, v := range []any{ours, &ours} {
		b, ourErr := Marshal(v)
		want, theirErr := json.Marshal(v)
		if string(b) != string(want) || (ourErr == nil) != (theirErr == nil) {
			t.Fatalf("%q becomes\n%s (%v) instead of\n%s (%v)", data, b, ourErr, want, theirErr)
		}
	}
}

func TestSame(t *testing.T) {
	for _, doc := range documents {
		same[all](t, []byte(doc))
		same[specs.Spec](t, []byte(doc))
		same[map[string]string](t, []byte(doc))
		same[any](t, []byte(doc))
	}
	for _, v := range []any{nil, 1, "x<", 1.5, []string(nil), map[word]int{"b": 1, "a": 2}, (*all)(nil), struct{}{}, time.Time{}, &inner{Twice: &inner{}},
		all{lower: "x"}, struct{ A any }{time.Time{}}, struct{ upper }{}, struct{ *upper }{}, []any{1, "a", nil, map[string]any{"x": []byte("y")}}, make(chan int)} {
		ours, ourErr := Marshal(v)
		theirs, theirErr := json.Marshal(v)
		if string(ours) != string(theirs) || (ourErr == nil) != (theirErr == nil) {
			t.Errorf("%#v: %s, %v instead of %s, %v", v, ours, ourErr, theirs, theirErr)
		}
	}
}

// TestOrdinary: what documents are made of is decoded and encoded here, which is the point of it all.
func TestOrdinary(t *testing.T) {
	for _, doc := range []string{documents[len(documents)-1]} {
		d := decoder{data: []byte(doc)}
		var s specs.Spec
		if !d.value(reflect.ValueOf(&s).Elem()) {
			t.Errorf("left to encoding/json at byte %d of %s", d.pos, doc)
		}
		if e := (encoder{}); !e.value(reflect.ValueOf(s)) {
			t.Errorf("left to encoding/json behind %s", e.buf)
		}
	}
}

// TestMerge: a value that is not zero is changed as encoding/json changes it.
func TestMerge(t *testing.T) {
	ours := all{Text: "a", Labels: map[string]string{"a": "b"}, Numbers: []int{1, 2}}
	if err := Unmarshal([]byte(`{"Labels":{"c":"d"},"numbers":[3]}`), &ours); err != nil || len(ours.Labels) != 2 || ours.Text != "a" || len(ours.Numbers) != 1 {
		t.Errorf("%+v, %v", ours, err)
	}
	if err := Unmarshal([]byte("{}"), all{}); err == nil {
		t.Error("what cannot be changed was decoded to")
	}
}

func FuzzSame(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		same[all](t, data)
		same[specs.Spec](t, data)
	})
}

func BenchmarkUnmarshal(b *testing.B) {
	doc := []byte(documents[len(documents)-1])
	for name, fn := range map[string]func([]byte, any) error{"cold": Unmarshal, "encoding": json.Unmarshal} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var s specs.Spec
				if err := fn(doc, &s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestLeanDecode: a process may list a thousand containers; what a document costs must stay near its values.
func TestLeanDecode(t *testing.T) {
	doc := []byte(`{"text":"a","Word":"w","Yes":true,"Small":3,"Big":5,"Took":7}`)
	n := testing.AllocsPerRun(100, func() {
		var v all
		if err := Unmarshal(doc, &v); err != nil {
			t.Fatal(err)
		}
	})
	if n > 4 { // v, which fields were there, and the texts, which are small
		t.Errorf("%v allocations", n)
	}
}
