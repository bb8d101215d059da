package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	ingestPrefix = "w-"
	// flushEvery is how many bytes are written before the kernel is asked to begin with their
	// way to the disk, so that the fsync at the end has little left to wait for.
	flushEvery = 8 << 20
)

// A Writer takes the bytes of one blob. It is for one goroutine. Its file is locked for as
// long as it is open, which tells it from what a dead process has left.
type Writer struct {
	s       *Store
	f       *os.File
	v       *verifier // of a blob that was announced, else nil
	hash    hash.Hash // of one that was not, else nil
	size    int64
	flushed int64
	err     error        // the first failure; nothing can be committed after it
	unlock  func() error // what keeps others from a blob that Resume gave, else nil
}

// Writer begins a blob of unknown digest; it will be a sha256. The caller closes it.
func (s *Store) Writer(ctx context.Context) (*Writer, error) {
	f, err := s.ingest(ctx)
	if err != nil {
		return nil, err
	}
	return &Writer{s: s, f: f, hash: sha256.New()}, nil
}

// WriterFor begins the blob d. Commit fails if the bytes are not d's. The caller closes it.
func (s *Store) WriterFor(ctx context.Context, d ocispec.Descriptor) (*Writer, error) {
	v, err := newVerifier(d)
	if err != nil {
		return nil, err
	}
	f, err := s.ingest(ctx)
	if err != nil {
		return nil, err
	}
	return &Writer{s: s, f: f, v: v}, nil
}

// sweepOnce removes leftovers before the first write.
func (s *Store) sweepOnce(ctx context.Context) (err error) {
	s.sweep.Do(func() { err = s.Sweep(ctx) })
	return err
}

// ingest makes a locked file for a blob.
func (s *Store) ingest(ctx context.Context) (*os.File, error) {
	if err := s.sweepOnce(ctx); err != nil {
		return nil, err
	}
	for {
		f, err := os.CreateTemp(filepath.Join(s.dir, "ingest"), ingestPrefix)
		if err != nil {
			return nil, fmt.Errorf("beginning a blob: %w", err)
		}
		// A sweep may come between the two, take the file for a leftover and remove it.
		locked, err := tryFlock(f)
		if err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		if locked && linked(f) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

func tryFlock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return true, nil
}

// linked says whether f still has a name.
func linked(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0
}

// sweepIngest removes the file unless its writer lives or it was written less than age ago.
func sweepIngest(path string, age time.Duration) (err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	dead, err := tryFlock(f)
	if err != nil || !dead {
		return err
	}
	// Between opening and locking, the writer may have finished: then path is free or, as
	// names are random, of another writer only by chance.
	ours, err := f.Stat()
	if err != nil || time.Since(ours.ModTime()) < age {
		return err
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(ours, named) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Write adds bytes.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.write(p)
	w.err = err
	return n, err
}

func (w *Writer) write(p []byte) (int, error) {
	if w.f == nil {
		return 0, fmt.Errorf("writing a blob: %w", fs.ErrClosed)
	}
	if w.v != nil {
		if _, err := w.v.Write(p); err != nil {
			return 0, err
		}
	} else {
		w.hash.Write(p)
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	if w.size-w.flushed >= flushEvery {
		// A hint; filesystems that cannot do it are no worse off.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.flushed, w.size-w.flushed, unix.SYNC_FILE_RANGE_WRITE)
		w.flushed = w.size
	}
	return n, err
}

// Size returns how many bytes have been written.
func (w *Writer) Size() int64 { return w.size }

// Commit makes the blob visible under its digest. mediaType is that of the descriptor returned;
// "" means the one WriterFor was given. The Writer cannot be used afterwards, and a failed Commit
// leaves nothing visible.
func (w *Writer) Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error) {
	if w.err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("storing a blob after a failed write: %w", w.err)
	}
	if w.f == nil {
		return ocispec.Descriptor{}, fmt.Errorf("storing a blob: %w", fs.ErrClosed)
	}
	d, err := w.descriptor()
	if err != nil {
		w.err = err
		return ocispec.Descriptor{}, err
	}
	if mediaType != "" {
		d.MediaType = mediaType
	}
	if err := w.publish(ctx, d); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("storing blob %s: %w", d.Digest, err)
	}
	return d, w.release()
}

// release closes the file and lets others have the blob.
func (w *Writer) release() error {
	err := w.f.Close()
	w.f = nil
	if w.unlock != nil {
		err = errors.Join(err, w.unlock())
	}
	return err
}

// descriptor verifies what was written.
func (w *Writer) descriptor() (ocispec.Descriptor, error) {
	if w.v != nil {
		return w.v.want, w.v.check()
	}
	return ocispec.Descriptor{Digest: digest.NewDigest(digest.SHA256, w.hash), Size: w.size}, nil
}

// publish renames the file to its digest.
func (w *Writer) publish(ctx context.Context, d ocispec.Descriptor) (err error) {
	if err := w.f.Chmod(0o644); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	// The time has to be set under the lock too: a collection that began before it counts on
	// everything made since being younger.
	unlock, err := w.s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := now(w.f.Name()); err != nil {
		return err
	}
	return os.Rename(w.f.Name(), w.s.Path(d.Digest))
}

// Close drops the bytes if they were not committed, or leaves those of a Writer that Resume gave to
// the next, unless something was wrong with them.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	var err error
	if !w.keeps() {
		err = os.Remove(w.f.Name())
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, w.release())
}

// copyBytes is io.Copy that ends when ctx does.
func copyBytes(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(w, ContextReader(ctx, r), make([]byte, 256<<10))
	return err
}

// ContextReader returns a reader of r that ends when ctx does.
func ContextReader(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(b)
}

// tooLarge refuses what a descriptor claims before any of it is read.
func tooLarge(d ocispec.Descriptor, limit int64) error {
	if d.Size > limit {
		return fmt.Errorf("%s has %d bytes, more than the %d allowed: %w", d.Digest, d.Size, limit, errdefs.ErrResourceExhausted)
	}
	return nil
}
