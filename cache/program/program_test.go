package program

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestUnpackOncePerExecutable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "programs")
	unpack := func(self, content string) string {
		t.Helper()
		target, err := Unpack(dir, self, "tool", func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(target, "tool"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := unpack("one", "first"); got != "first" {
		t.Errorf("got %q", got)
	}
	if got := unpack("one", "not asked for"); got != "first" {
		t.Errorf("the second time: %q, want what is there", got)
	}
	if got := unpack("two", "second"); got != "second" {
		t.Errorf("of another executable: %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v; want both", entries, err)
	}
	for _, d := range entries {
		old := time.Now().Add(-2 * keep)
		if err := os.Chtimes(filepath.Join(dir, d.Name()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	unpack("three", "third")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v; want the old ones gone", entries, err)
	}
}

func TestUnpackLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	_, err = Unpack(dir, self, "tool", func(w io.Writer) error {
		io.WriteString(w, "half of it")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the writer", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v; want nothing", entries, err)
	}
}

func TestExecutableInMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := Executable(file, "one", "tool", func(w io.Writer) error { // below a file nothing can be written
		_, err := io.WriteString(w, "first")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // what nobody refers to any more is closed some time after
		runtime.GC()
		if b, err := os.ReadFile(path); string(b) != "first" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	}
}
