package outfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func say(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	bad := errors.New("no")
	for _, tt := range []struct {
		fill func(io.Writer) error
		want string
		err  error
	}{
		{say("first"), "first", nil},
		{func(w io.Writer) error { return errors.Join(say("half")(w), bad) }, "first", bad},
		{say("second"), "second", nil},
	} {
		if err := Write(path, 0o640, tt.fill); !errors.Is(err, tt.err) {
			t.Errorf("%v, want %v", err, tt.err)
		}
		if got := read(t, path); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o640 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := Write(dir, 0o600, say("x")); !errors.Is(err, unix.EISDIR) {
		t.Errorf("over a directory: %v", err)
	}
	if err := Write(filepath.Join(dir, "no/such"), 0o600, say("x")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("into no directory: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// What is no regular file stays what it is.
func TestWriteThrough(t *testing.T) {
	dir := t.TempDir()
	fifo, link, dangling := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(filepath.Join(dir, "old"), []byte("something longer"), 0o600),
		os.Symlink("old", link), os.Symlink("new", dangling))
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string)
	go func() {
		b, err := os.ReadFile(fifo)
		if err != nil {
			t.Error(err)
		}
		heard <- string(b)
	}()
	for _, path := range []string{fifo, link, dangling} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(path, 0o600, say("words")); err != nil {
			t.Error(err)
		}
		if after, err := os.Lstat(path); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s: %v, %v", path, after, err)
		}
	}
	if got := [3]string{<-heard, read(t, filepath.Join(dir, "old")), read(t, filepath.Join(dir, "new"))}; got != [3]string{"words", "words", "words"} {
		t.Errorf("%q", got)
	}
}
