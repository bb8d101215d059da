package registry

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	// flushSize is after how many bytes the disk is asked to begin writing, so that the
	// fsync in the end finds little left.
	flushSize = 8 << 20
	// maxHashes bounds how many uploads have their hash remembered between requests.
	maxHashes = 4096
	// uploadWait is how long a request waits for another one to let go of its upload.
	uploadWait = 30 * time.Second
)

// CreateUpload implements uploads.
func (s *directory) CreateUpload(_ context.Context, repo string, a digest.Algorithm) (string, error) {
	id := randomHex() + repoMark(repo)
	f, err := openFile(s.uploadPath(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", err
	}
	s.hashes.put(id, &runningHash{algorithm: a, hash: newHash(a)})
	return id, f.Close()
}

func (s *directory) uploadPath(id string) string { return filepath.Join(s.root, "uploads", id) }

// repoMark binds an upload to its repository without a second file: the ID ends with it.
func repoMark(repo string) string {
	sum := sha256.Sum256([]byte(repo))
	return hex.EncodeToString(sum[:8])
}

// checkUpload makes sure that id is an upload ID of repo, and no other name.
func checkUpload(repo, id string) error {
	b, err := hex.DecodeString(id)
	if err != nil || len(b) != 24 || id[32:] != repoMark(repo) {
		return fmt.Errorf("not an upload of %s: %w", repo, errdefs.ErrNotFound)
	}
	return nil
}

// UploadSize implements uploads.
func (s *directory) UploadSize(_ context.Context, repo, id string) (int64, error) {
	if err := checkUpload(repo, id); err != nil {
		return 0, err
	}
	fi, err := os.Lstat(s.uploadPath(id))
	if err != nil {
		return 0, notFound(err)
	}
	return fi.Size(), nil
}

// OpenUpload implements uploads.
func (s *directory) OpenUpload(ctx context.Context, repo, id string, _ digest.Digest) (upload, error) {
	if err := checkUpload(repo, id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, uploadWait, &apiError{409, codeBlobUploadInvalid, "another request writes to this upload", nil})
	defer cancel()
	u, err := s.openUpload(ctx, id)
	if err != nil {
		return nil, err
	}
	u.repo = repo
	return u, nil
}

func (s *directory) openUpload(ctx context.Context, id string) (*fileUpload, error) {
	f, err := openFile(s.uploadPath(id), os.O_RDWR|os.O_APPEND)
	if err != nil {
		return nil, notFound(err)
	}
	u := &fileUpload{s: s, id: id, f: f}
	if err := flock(ctx, f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	if err := u.inspect(); err != nil {
		f.Close()
		return nil, err
	}
	return u, nil
}

// inspect finds the size, and makes sure that the file is still this upload: who had the
// lock before may have made a blob of it.
func (u *fileUpload) inspect() error {
	opened, err := u.f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(u.s.uploadPath(u.id))
	if err != nil {
		return notFound(err)
	}
	if !os.SameFile(opened, named) {
		return fmt.Errorf("upload has ended: %w", errdefs.ErrNotFound)
	}
	u.size = opened.Size()
	return nil
}

// SweepUploads implements uploads. It also removes temporary files of killed servers.
func (s *directory) SweepUploads(ctx context.Context, before time.Time) (removed int, err error) {
	err = eachOlder(ctx, filepath.Join(s.root, "uploads"), before, func(name string) error {
		now, cancel := context.WithCancelCause(ctx)
		cancel(errdefs.ErrUnavailable) // a lock that has to be waited for is an upload in use
		u, err := s.openUpload(now, name)
		if errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer u.Close()
		removed++
		return u.Cancel()
	})
	if err != nil {
		return removed, err
	}
	return removed, eachOlder(ctx, filepath.Join(s.root, "tmp"), before, func(name string) error {
		return os.Remove(filepath.Join(s.root, "tmp", name))
	})
}

// eachOlder calls f with the names of files in dir that were not changed since before.
func eachOlder(ctx context.Context, dir string, before time.Time, f func(name string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || !fi.ModTime().Before(before) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := f(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// fileUpload is an upload held under the flock of its file.
type fileUpload struct {
	s        *directory
	repo, id string
	f        *os.File
	size     int64
}

func (u *fileUpload) Size() int64  { return u.size }
func (u *fileUpload) Close() error { return u.f.Close() }

// ReadFrom appends r, and goes on with the hash of what was there if it is known.
func (u *fileUpload) ReadFrom(r io.Reader) (n int64, err error) {
	running := u.s.hashes.take(u.id)
	if running == nil || running.size != u.size {
		running = nil // Commit will read the file
	}
	defer func() {
		if running != nil && running.size == u.size {
			u.s.hashes.put(u.id, running)
		}
	}()
	buf := u.s.buffers.get()
	defer func() { u.s.buffers.put(buf) }()
	for flushed := u.size; ; {
		var k int
		var readErr error
		k, buf, readErr = u.fill(buf, r, running)
		if err := u.append((*buf)[:k]); err != nil {
			return n, err
		}
		n += int64(k)
		if u.size-flushed >= flushSize {
			// Only a hint; the fsync before the commit is what counts.
			_ = unix.SyncFileRange(int(u.f.Fd()), flushed, u.size-flushed, unix.SYNC_FILE_RANGE_WRITE)
			flushed = u.size
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// fill reads until the buffer, which it may exchange for a larger one, is full or r ends.
// What is read is hashed at once, while the processor has it near.
func (u *fileUpload) fill(buf *[]byte, r io.Reader, running *runningHash) (n int, _ *[]byte, err error) {
	for n < len(*buf) && err == nil {
		var k int
		k, err = r.Read((*buf)[n:])
		if running != nil {
			running.hash.Write((*buf)[n : n+k])
			running.size += int64(k)
		}
		if n += k; n == len(*buf) && err == nil {
			buf = u.s.buffers.grow(buf)
		}
	}
	return n, buf, err
}

func (u *fileUpload) append(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	k, err := u.f.Write(b)
	if err == nil {
		u.size += int64(k)
		return nil
	}
	// Half a buffer (the disk is full) would shift what comes next.
	return errors.Join(fmt.Errorf("writing upload: %w", err), u.f.Truncate(u.size))
}

// Commit implements upload.
func (u *fileUpload) Commit(ctx context.Context, d digest.Digest) error {
	sum, err := u.digest(d.Algorithm())
	if err != nil {
		return err
	}
	if sum != d {
		return errors.Join(errDigest, u.Cancel())
	}
	return u.s.adoptBlob(ctx, u.s.uploadPath(u.id), u.repo, d, u.size, u.f.Sync)
}

// digest returns the digest of the upload, from the running hash or by reading it.
func (u *fileUpload) digest(a digest.Algorithm) (digest.Digest, error) {
	running := u.s.hashes.take(u.id)
	if running != nil && running.algorithm == a && running.size == u.size {
		return digest.NewDigest(a, running.hash), nil
	}
	h := newHash(a)
	buf := u.s.buffers.get()
	defer u.s.buffers.put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(u.f, 0, u.size), *buf)
	if err != nil {
		return "", fmt.Errorf("reading upload: %w", err)
	}
	if n != u.size {
		return "", fmt.Errorf("reading upload: %w", io.ErrUnexpectedEOF)
	}
	return digest.NewDigest(a, h), nil
}

// Cancel implements upload.
func (u *fileUpload) Cancel() error {
	u.s.hashes.take(u.id)
	return os.Remove(u.s.uploadPath(u.id))
}

// hashes remembers the hashes of uploads between requests, so that their bytes need not be
// read again. Whatever is not there can be computed from the file.
type hashes struct {
	mu sync.Mutex
	m  map[string]*runningHash
}

// runningHash is the hash of the first size bytes of an upload.
type runningHash struct {
	algorithm digest.Algorithm
	hash      hash.Hash
	size      int64
}

// take returns what is known about an upload, and forgets it: whoever goes on puts it back.
func (h *hashes) take(id string) *runningHash {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.m[id]
	delete(h.m, id)
	return r
}

func (h *hashes) put(id string, r *runningHash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || len(h.m) >= maxHashes {
		h.m = map[string]*runningHash{}
	}
	h.m[id] = r
}

// newHash returns the hash of an algorithm that parseDigest accepts.
func newHash(a digest.Algorithm) hash.Hash {
	if a == digest.SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// digestOf returns the digest of b.
func digestOf(a digest.Algorithm, b []byte) digest.Digest {
	h := newHash(a)
	h.Write(b)
	return digest.NewDigest(a, h)
}
