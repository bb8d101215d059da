package program

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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
