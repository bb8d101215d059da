package runner

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string][]byte{
		"": {16, 17}, "ctrl-a,b": {1, 'b'}, "ctrl-@": {0}, "ctrl-[,ctrl-_": {27, 31}, "ctrl-é": nil, "ab": nil, ",": nil,
	} {
		if got, err := ParseDetachKeys(text); !bytes.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	keys := []byte{16, 17}
	// A command that reads nothing.
	_, w := io.Pipe()
	pasted := strings.Repeat("pasted ", 10<<10) + "\x10\x11"
	if err := CopyTyped(w, &DetachReader{R: strings.NewReader(pasted), Keys: keys}); !errors.Is(err, ErrDetached) {
		t.Errorf("after a large paste: %v", err)
	}
	var typed bytes.Buffer
	if err := CopyTyped(&typed, &DetachReader{R: iotest.DataErrReader(strings.NewReader(pasted[:70000])), Keys: keys}); err != nil || typed.String() != pasted[:70000] {
		t.Errorf("%d bytes, %v", typed.Len(), err)
	}
	for in, want := range map[string]string{
		"abc\x10\x11never":       "abc|detached",
		"a\x10b":                 "a\x10b|EOF",
		"\x10\x10\x11x":          "\x10|detached",
		"end with the first\x10": "end with the first\x10|EOF",
	} {
		for _, r := range []io.Reader{bytes.NewBufferString(in), iotest.OneByteReader(bytes.NewBufferString(in))} {
			got, err := io.ReadAll(&DetachReader{R: r, Keys: keys})
			end := "|EOF"
			if errors.Is(err, ErrDetached) {
				end = "|detached"
			}
			if string(got)+end != want {
				t.Errorf("%q: %q, want %q", in, string(got)+end, want)
			}
		}
	}
}
