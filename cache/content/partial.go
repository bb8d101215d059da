package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/statefile"
)

const (
	partialPrefix = "p-" // of files in ingest that Resume goes on with
	// partialAge is how long the beginning of a blob is kept for somebody to go on with it.
	partialAge = 7 * 24 * time.Hour
)

// A RangeFetcher can begin within a blob. What FetchFrom gives, from the byte at offset on, is
// not verified: the caller has the bytes before, so only it can. Otherwise it is like Fetch.
type RangeFetcher interface {
	FetchFrom(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Resume begins the blob d where the Writer before it left off that Resume gave to a process now
// dead or that was closed early: Size says how many bytes there are, and Have gives them out.
// A blob has one such Writer at a time, in all processes. Resume waits for it until ctx ends,
// and afterwards the blob may be stored. The caller closes the Writer.
func (s *Store) Resume(ctx context.Context, d ocispec.Descriptor) (*Writer, error) {
	v, err := newVerifier(d)
	if err != nil {
		return nil, err
	}
	if err := s.sweepOnce(ctx); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, "ingest", partialPrefix+string(d.Digest.Algorithm())+"-"+d.Digest.Encoded())
	unlock, err := statefile.Lock(ctx, path, statefile.LockOptions{})
	if err != nil {
		return nil, fmt.Errorf("beginning blob %s: %w", d.Digest, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("beginning blob %s: %w", d.Digest, err), unlock())
	}
	w := &Writer{s: s, f: f, v: v, unlock: unlock}
	if err := w.recall(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("going on with blob %s: %w", d.Digest, err), w.Close())
	}
	return w, nil
}

// recall digests the bytes that are there.
func (w *Writer) recall(ctx context.Context) error {
	fi, err := w.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() > w.v.want.Size {
		return w.Restart() // of another program
	}
	w.size, w.flushed = fi.Size(), fi.Size()
	err = copyBytes(ctx, w.v, io.LimitReader(w.f, w.size))
	return err
}

// Have returns a reader of the bytes that are there now.
func (w *Writer) Have() io.Reader { return io.NewSectionReader(w.f, 0, w.size) }

// Restart drops the bytes of a Writer that Resume gave, and what went wrong with them. After
// Commit it is an fs.ErrClosed.
func (w *Writer) Restart() error {
	if w.f == nil {
		return fmt.Errorf("writing a blob again: %w", fs.ErrClosed)
	}
	v, err := newVerifier(w.v.want)
	if err != nil {
		return err
	}
	if err := w.f.Truncate(0); err != nil {
		return err
	}
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.v, w.size, w.flushed, w.err = v, 0, 0, nil
	return nil
}

// Discard is Close that keeps nothing for another Resume.
func (w *Writer) Discard() error {
	w.err = fs.ErrClosed
	return w.Close()
}

// keeps says whether Close leaves the bytes to another Resume.
func (w *Writer) keeps() bool { return w.unlock != nil && w.err == nil && w.size > 0 }

// Partial returns the bytes of blobs that are being written, or wait for somebody to go on with them.
func (s *Store) Partial() (size int64, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "ingest"))
	for _, e := range entries {
		if fi, err := e.Info(); err == nil { // else it has just been finished
			size += fi.Size()
		}
	}
	return size, err
}
