package keeper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// logged are the lines of the log at path and of the n files before it, in order.
func logged(t *testing.T, path string, n int) (lines []string) {
	t.Helper()
	for i := n; i >= 0; i-- {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var e struct{ Log string }
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			lines = append(lines, e.Log)
		}
	}
	return lines
}

func TestRecorderKeepsFilesSmall(t *testing.T) {
	dir := t.TempDir()
	cfg := Log{Path: filepath.Join(dir, "log"), MaxSize: 5000, MaxFiles: 4}
	r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
	if err != nil {
		t.Fatal(err)
	}
	var chunk []byte
	for i := range 2000 {
		chunk = fmt.Appendf(chunk, "line %d\n", i)
	}
	head := bytes.LastIndexByte(chunk[:len(chunk)/2], '\n') + 3 // within a line
	r.record(0, chunk[:head])
	r.record(0, chunk[head:])
	r.Close()

	lines := logged(t, cfg.Path, 3)
	for i, line := range lines {
		if want := fmt.Sprintf("line %d\n", 2000-len(lines)+i); line != want {
			t.Fatalf("line %d from the end: %q, want %q", len(lines)-i, line, want)
		}
	}
	for _, name := range []string{"log", "log.1", "log.2", "log.3"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Size() > cfg.MaxSize || name != "log" && st.Size() < cfg.MaxSize*9/10 {
			t.Errorf("%s: %d bytes, want about %d: %v", name, st.Size(), cfg.MaxSize, err)
		}
	}
	if _, err := os.Stat(cfg.Path + ".4"); err == nil {
		t.Error("a file too many")
	}
}

// TestRecorderKnowsWhatWaits: a line that waits in the FIFO was recorded by the keeper before; the same line
// behind it was not.
// plainFiles are the rotated files that are not compressed soon.
func plainFiles(dir string) (left []string) {
	await(func() bool {
		left = nil
		all, _ := filepath.Glob(filepath.Join(dir, "log.[0-9]*"))
		for _, name := range all {
			if filepath.Ext(name) != ".gz" {
				left = append(left, name)
			}
		}
		return len(left) == 0
	})
	return left
}

// TestRecorderCompresses: files that are rotated while others are being compressed are compressed too, and those that
// an earlier keeper has left.
func TestRecorderCompresses(t *testing.T) {
	dir := t.TempDir()
	cfg := Log{Path: filepath.Join(dir, "log"), MaxSize: 5000, MaxFiles: 6, Compress: true}
	for _, name := range []string{"log.4", "log.5", "log.5.gz"} { // log.5 was compressed, but not removed
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if left := plainFiles(dir); len(left) > 0 {
		t.Errorf("not compressed: %v", left)
	}
	for i := range 2000 {
		r.record(0, fmt.Appendf(nil, "line %d\n", i))
	}
	if left := plainFiles(dir); len(left) > 0 {
		t.Errorf("not compressed: %v", left)
	}
	all, err := filepath.Glob(filepath.Join(dir, "log*"))
	if err != nil || len(all) != cfg.MaxFiles {
		t.Errorf("%v, %v, want %d files", all, err, cfg.MaxFiles)
	}
}

// TestRecorderCannotRotate: while no file can be made, what was logged before stays.
func TestRecorderCannotRotate(t *testing.T) {
	dir := t.TempDir()
	cfg := Log{Path: filepath.Join(dir, "log"), MaxSize: 1000, MaxFiles: 3}
	r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	line := func() {
		n++
		r.record(0, fmt.Appendf(nil, "line %d\n", n))
	}
	for range 50 {
		line()
	}
	for r.log.size+200 < cfg.MaxSize { // the next ones need another file
		line()
	}
	before := logged(t, cfg.Path, 2)
	withoutDescriptors(t, func() {
		for range 20 {
			r.record(0, []byte("this line, which is a little longer than those before it were, is lost\n"))
		}
	})
	line()
	after := logged(t, cfg.Path, 2)
	if last := after[len(after)-1]; last != fmt.Sprintf("line %d\n", n) {
		t.Errorf("the log does not go on: %q", last)
	}
	if kept := len(after) - 1; kept < len(before)/2 {
		t.Errorf("%d lines of %d are left", kept, len(before))
	}
}

// withoutDescriptors calls f while this process can open no file.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	now := was
	now.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	f()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
}

func TestRecorderKnowsWhatWaits(t *testing.T) {
	dir := t.TempDir()
	cfg := Log{Path: filepath.Join(dir, "log"), MaxSize: 5000, MaxFiles: 4}
	open := func() *recorder {
		t.Helper()
		r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tick := []byte("tick\n")
	r := open()
	r.record(0, tick)
	r.Close()
	r = open()
	if known, at := r.begin(0, tick); known != len(tick) || at != 0 {
		t.Errorf("what waits: %d bytes are known at %d", known, at)
	}
	r.consumed(0)
	r.Close()
	r = open()
	if known, at := r.begin(0, tick); known != 0 || at != int64(len(tick)) {
		t.Errorf("the next: %d bytes are known at %d", known, at)
	}
	r.record(0, tick)
	r.Close()
	if lines := logged(t, cfg.Path, 0); len(lines) != 2 {
		t.Errorf("%q", lines)
	}
}
