package runner

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/keeper"
)

// The fast way of reading a log line says what encoding/json says.
func FuzzLogLine(f *testing.F) {
	f.Add([]byte(`{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`))
	f.Add([]byte(`{"log":"a \"quoted\" \\ text","stream":"stderr","time":"x"}`))
	f.Add([]byte(`{"log":"","stream":"","time":""}`))
	f.Add([]byte(`{"log":"{\"a\":\"\u003cb\u003e\\n\"}\\\\n","stream":"stdout","time":"x"}`))
	f.Add([]byte(`{"log":"\u00e9\ud83d\ude00\/\b\f\n","stream":"stdout","time":"x"}`))
	f.Add([]byte(`{"log":"x\",\"stream\":\"","stream":"stdout","attrs":{"a":"b"},"time":"x"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var scratch []byte
		got, ok := keeper.ParseLogLine(line, &scratch)
		if !ok {
			return
		}
		want, err := parseAny(line)
		if err != nil {
			return // bytes that our keeper does not write
		}
		if !bytes.Equal(got.Attrs, want.Attrs) {
			t.Errorf("%q: attrs %q, want %q", line, got.Attrs, want.Attrs)
		}
		text := bytes.Clone(got.Text)
		if got.Newline {
			text = append(text, '\n')
		}
		text = []byte(string([]rune(string(text)))) // as encoding/json has what is no UTF-8
		if !bytes.Equal(text, want.Text) {
			t.Errorf("%q: text %q, want %q", line, text, want.Text)
		}
	})
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"KILL": 9, "sigterm": 15, "9": 9, "SIGRTMIN+3": 37, "RTMAX-1": 63, "rtmin": 34,
		"0": 0, "65": 0, "NOSUCH": 0, "RTMIN+31": 0, "": 0,
	} {
		got, err := ParseSignal(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
}
