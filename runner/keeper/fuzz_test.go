package keeper

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a client sends may be anything: reading it ends, and takes no more than a frame.
func FuzzConn(f *testing.F) {
	f.Add([]byte("q\x00\x00\x00\x02{}"))
	f.Add([]byte("i\x00\x00\x00\x00e\x00\x00\x00\x00"))
	f.Add([]byte("q\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := connected(t)
		defer theirs.Close()
		go func() {
			ours.Write(b)
			ours.Close()
		}()
		total := 0
		for {
			_, payload, err := theirs.read()
			if err != nil {
				break
			}
			total += 5 + len(payload)
		}
		if total > len(b) {
			t.Errorf("%d bytes of frames out of %d", total, len(b))
		}
	})
}

// Whatever a container says, its log is JSON and says the same, but for bytes that are no
// UTF-8.
func FuzzLog(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte("\x00\x1b[1m\"quoted\"\\ \xff\xc3 \u2028 é\r\n\t"))
	f.Fuzz(func(t *testing.T, b []byte) {
		line := append(appendEscaped([]byte{'"'}, b, false), '"')
		var got string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if want := string([]rune(string(b))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// A cursor file may be torn or full of nonsense.
func FuzzCursor(f *testing.F) {
	c := &cursor{}
	c.note.carry[0] = []byte("carried")
	path := filepath.Join(f.TempDir(), "seed")
	file, err := os.Create(path)
	if err != nil {
		f.Fatal(err)
	}
	c.f, c.seq = file, 1
	if err := c.save(); err != nil {
		f.Fatal(err)
	}
	file.Close()
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:20])
	f.Add(binary.LittleEndian.AppendUint32(make([]byte, 60), 1<<31))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := openCursor(path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n := c.note; len(n.carry[0]) > maxLine || len(n.carry[1]) > maxLine {
			t.Errorf("carries %d and %d bytes", len(n.carry[0]), len(n.carry[1]))
		}
	})
}
