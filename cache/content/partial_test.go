package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func resume(t *testing.T, s *Store, d ocispec.Descriptor) *Writer {
	t.Helper()
	w, err := s.Resume(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func TestResumeGoesOnWhereTheLastWriterStopped(t *testing.T) {
	s, data := open(t), bytes.Repeat([]byte("0123456789"), 50_000)
	d := describe(ocispec.MediaTypeImageLayer, data)
	for _, upTo := range []int{200_000, 450_000, len(data)} {
		w := resume(t, s, d)
		begun := w.Size()
		have, err := io.ReadAll(w.Have())
		if err != nil || !bytes.Equal(have, data[:begun]) {
			t.Fatalf("it has %d bytes that are not the first %d: %v", len(have), begun, err)
		}
		if _, err := w.Write(data[begun:upTo]); err != nil {
			t.Fatal(err)
		}
		if upTo == len(data) {
			if begun != 450_000 {
				t.Errorf("the last one began at %d", begun)
			}
			if got, err := w.Commit(t.Context(), ""); err != nil || got.Digest != d.Digest {
				t.Fatalf("got %v, %v", got, err)
			}
			if err := w.Restart(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Restart after Commit: %v", err)
			}
			continue
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadAll(t.Context(), s, d); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if left := ingests(t, s); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

func TestResumeKeepsNothingThatIsWrong(t *testing.T) {
	data := []byte("the right bytes")
	d := describe(ocispec.MediaTypeImageLayer, data)
	for name, spoil := range map[string]func(w *Writer) error{
		"wrong": func(w *Writer) error {
			_, err := w.Write([]byte("the wrong bytes"))
			if _, cerr := w.Commit(t.Context(), ""); !errdefs.IsDataLoss(cerr) {
				t.Errorf("wrong bytes: %v", cerr)
			}
			return err
		},
		"too many": func(w *Writer) error {
			if _, err := w.Write(append(data, '!')); !errdefs.IsDataLoss(err) {
				t.Errorf("too many bytes: %v", err)
			}
			return nil
		},
		"none":      func(w *Writer) error { return nil },
		"discarded": func(w *Writer) error { _, err := w.Write(data[:3]); return errors.Join(err, w.Discard()) },
		"restarted": func(w *Writer) error { _, err := w.Write(data[:3]); return errors.Join(err, w.Restart()) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			w := resume(t, s, d)
			if err := spoil(w); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if left := ingests(t, s); len(left) > 0 {
				t.Errorf("left in ingest: %v", left)
			}
		})
	}
}

func TestResumeWaitsForTheOther(t *testing.T) {
	s, data := open(t), []byte("bytes")
	d := describe(ocispec.MediaTypeImageLayer, data)
	w := resume(t, s, d)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the user went")
	cancel(gone)
	if _, err := s.Resume(ctx, d); !errors.Is(err, gone) {
		t.Fatalf("got %v while another writes, want to wait for it", err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	again := resume(t, s, d) // the file of the first is the blob now
	if again.Size() != 0 {
		t.Errorf("it began at %d", again.Size())
	}
	if _, err := again.Write([]byte("other")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadAll(t.Context(), s, d); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestSweepOfPartialBlobs(t *testing.T) {
	s, data := open(t), []byte("bytes")
	d := describe(ocispec.MediaTypeImageLayer, data)
	w := resume(t, s, d)
	if _, err := w.Write(data[:2]); err != nil {
		t.Fatal(err)
	}
	sweep := func(age time.Duration) int {
		t.Helper()
		path, then := filepath.Join(s.dir, "ingest", ingests(t, s)[0]), time.Now().Add(-age)
		if err := errors.Join(os.Chtimes(path, then, then), s.Sweep(t.Context())); err != nil {
			t.Fatal(err)
		}
		return len(ingests(t, s))
	}
	if sweep(2*partialAge) != 1 {
		t.Error("the file of a living writer was removed")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if sweep(partialAge/2) != 1 {
		t.Error("a young file was removed")
	}
	if sweep(2*partialAge) != 0 {
		t.Error("an old file was kept")
	}
}
