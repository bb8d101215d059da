package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wait says whether Wait returns well before it would without a change.
func wait(t *testing.T, d *Dir) bool {
	t.Helper()
	begin := time.Now()
	if err := d.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin) < d.watching*3/4
}

// patient is a watch that a slow machine does not mistake for one that has heard nothing.
func patient(path string) *Dir {
	d := New(path)
	d.watching = time.Minute
	return d
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	d := patient(dir)
	defer d.Close()
	file, other := filepath.Join(dir, "file"), filepath.Join(t.TempDir(), "other")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, change := range []struct {
		what string
		do   func() error
	}{
		{"made", func() error { return nil }},
		{"written to", func() error { _, err := f.WriteString("x"); return err }},
		{"replaced", func() error { return errors.Join(os.WriteFile(other, nil, 0o600), os.Rename(other, file)) }},
		{"removed", func() error { return os.Remove(file) }},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		if !wait(t, d) {
			t.Errorf("nothing is heard of a file that was %s", change.what)
		}
	}
	d.watching = watching
	if wait(t, d) {
		t.Error("something has changed that nobody changed")
	}
}

// TestLater waits for a directory that is made later, as one whose first file somebody is about to write.
func TestLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	d := patient(dir)
	defer d.Close()
	if d.f != nil || !wait(t, d) {
		t.Error("a directory that is not there is watched")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if wait(t, d); d.f == nil {
		t.Error("a directory that was made is not watched")
	}
}

func TestEndOfContext(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/nonexistent"} {
		d := patient(dir)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		begin := time.Now()
		if err := d.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > d.watching*3/4 {
			t.Errorf("%s: %v after %v", dir, err, time.Since(begin))
		}
		cancel()
		d.Close()
	}
}

// TestEndBesideChange: what ends a Wait may still be on its way when the watch is closed; the race detector
// sees whether it minds.
func TestEndBesideChange(t *testing.T) {
	dir := t.TempDir()
	for range 200 {
		d := New(dir)
		ctx, cancel := context.WithCancel(t.Context())
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cancel()
		d.Wait(ctx)
		d.Close()
	}
}
