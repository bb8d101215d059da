package registry

import (
	"bytes"
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
	"strings"
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
	// maxEnded bounds the memory of uploads that ended.
	maxEnded = 1 << 14
	// uploadWait is how long a request waits for another one to let go of its upload.
	uploadWait = 30 * time.Second
)

// CreateUpload implements uploads. Nothing is written: an upload has a file from its first byte on, and a small
// blob that comes in one piece never has one. The ID says whose it is, so that any server takes what begins it,
// also after this one was killed. That a client with the right to push could think of an ID itself does no harm.
func (s *directory) CreateUpload(_ context.Context, repo string, a digest.Algorithm) (string, error) {
	guess := "2"
	if a == digest.SHA512 {
		guess = "5"
	}
	return randomHex()[1:] + guess + repoMark(repo), nil
}

// guessed returns the algorithm that CreateUpload was told of.
func guessed(id string) digest.Algorithm {
	if strings.HasPrefix(id[31:], "5") {
		return digest.SHA512
	}
	return digest.SHA256
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
	if errors.Is(err, fs.ErrNotExist) && !s.ended.has(id) {
		return 0, nil
	}
	if err != nil {
		return 0, notFound(err)
	}
	return fi.Size(), nil
}

// OpenUpload implements uploads. What is to be committed has no file yet if nothing came before.
func (s *directory) OpenUpload(ctx context.Context, repo, id string, final digest.Digest) (upload, error) {
	if err := checkUpload(repo, id); err != nil {
		return nil, err
	}
	u, err := s.openUpload(ctx, id, 0)
	if errdefs.IsNotFound(err) && !s.ended.has(id) {
		if final != "" {
			u, err = &fileUpload{s: s, id: id}, nil
		} else {
			u, err = s.openUpload(ctx, id, os.O_CREATE)
		}
	}
	if err != nil {
		return nil, err
	}
	u.repo, u.algorithm = repo, guessed(id)
	if final != "" {
		u.algorithm = final.Algorithm()
	}
	return u, nil
}

// openUpload opens the file of an upload, alone. Flags may have O_CREATE.
func (s *directory) openUpload(ctx context.Context, id string, flags int) (*fileUpload, error) {
	f, err := openFile(s.uploadPath(id), os.O_RDWR|os.O_APPEND|flags)
	if err != nil {
		return nil, notFound(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, uploadWait, errBusyUpload)
	defer cancel()
	u := &fileUpload{s: s, id: id, f: f}
	if err := flock(ctx, int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	if err := u.inspect(); err != nil {
		f.Close()
		return nil, err
	}
	return u, nil
}

var errBusyUpload error = &apiError{409, codeBlobUploadInvalid, "another request writes to this upload", nil}

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
		u, err := s.openUpload(now, name, 0)
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

// fileUpload is an upload held under the flock of its file. While it has no file, all of it is in small.
type fileUpload struct {
	s         *directory
	repo, id  string
	algorithm digest.Algorithm // of the digest that it will probably have
	f         *os.File         // nil: none yet
	size      int64
	running   *runningHash // of all of it, or nil
	small     *[]byte      // its first size bytes are the upload; lent by s.buffers
}

func (u *fileUpload) Size() int64 { return u.size }

func (u *fileUpload) Close() error {
	if u.small != nil {
		u.s.buffers.put(u.small)
	}
	if u.f == nil {
		return nil
	}
	if u.running != nil {
		u.running.file = identity(u.f)
		u.s.hashes.put(u.id, u.running)
	}
	return u.f.Close()
}

// ReadFrom appends r, and goes on with the hash of what was there if it is known.
func (u *fileUpload) ReadFrom(r io.Reader) (n int64, err error) {
	u.running = u.remembered()
	if u.size == 0 {
		u.running = &runningHash{algorithm: u.algorithm, hash: newHash(u.algorithm)}
	} else if u.running != nil && u.running.size != u.size {
		u.running = nil // Commit will read the file
	}
	buf := u.s.buffers.get()
	defer func() {
		if buf != u.small {
			u.s.buffers.put(buf)
		}
	}()
	for flushed := u.size; ; {
		var k int
		var readErr error
		k, buf, readErr = u.fill(buf, r)
		if u.f == nil && readErr == io.EOF {
			u.small, u.size = buf, int64(k)
			return int64(k), nil
		}
		if err := u.append((*buf)[:k]); err != nil {
			u.running = nil
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
func (u *fileUpload) fill(buf *[]byte, r io.Reader) (n int, _ *[]byte, err error) {
	for n < len(*buf) && err == nil {
		var k int
		k, err = r.Read((*buf)[n:])
		if u.running != nil {
			u.running.hash.Write((*buf)[n : n+k])
			u.running.size += int64(k)
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
	if u.f == nil {
		if err := u.create(); err != nil {
			return err
		}
	}
	k, err := u.f.Write(b)
	if err == nil {
		u.size += int64(k)
		return nil
	}
	// Half a buffer (the disk is full) would shift what comes next.
	return errors.Join(fmt.Errorf("writing upload: %w", err), u.f.Truncate(u.size))
}

// create makes the file of an upload that has none.
func (u *fileUpload) create() error {
	made, err := u.s.openUpload(context.Background(), u.id, os.O_CREATE)
	if err != nil {
		return err
	}
	u.f = made.f
	if made.size > 0 { // somebody else began it meanwhile
		return errBusyUpload
	}
	return nil
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
	if u.f == nil {
		err = u.s.adoptBytes(ctx, u.bytes(), u.repo, d)
	} else {
		err = u.s.adoptFile(ctx, u.s.uploadPath(u.id), u.repo, d, u.size, u.f.Sync)
	}
	if err == nil {
		u.end()
	}
	return err
}

// bytes are those of an upload without a file.
func (u *fileUpload) bytes() []byte {
	if u.small == nil {
		return nil
	}
	return (*u.small)[:u.size]
}

// end makes sure that the ID is that of no upload any more.
func (u *fileUpload) end() {
	u.s.ended.add(u.id)
	u.running = nil
}

// digest returns the digest of the upload, from the running hash or by reading it.
func (u *fileUpload) digest(a digest.Algorithm) (digest.Digest, error) {
	if u.running == nil {
		u.running = u.remembered()
	}
	if u.running != nil && u.running.algorithm == a && u.running.size == u.size {
		return digest.NewDigest(a, u.running.hash), nil
	}
	h := newHash(a)
	buf := u.s.buffers.get()
	defer u.s.buffers.put(buf)
	all := io.Reader(bytes.NewReader(u.bytes()))
	if u.f != nil {
		all = io.NewSectionReader(u.f, 0, u.size)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{all}, *buf)
	if err != nil {
		return "", fmt.Errorf("reading upload: %w", err)
	}
	if n != u.size {
		return "", fmt.Errorf("reading upload: %w", io.ErrUnexpectedEOF)
	}
	return digest.NewDigest(a, h), nil
}

// remembered takes what is known of the upload's hash, unless that is of another file: other servers may have ended the
// upload, and somebody begun it again.
func (u *fileUpload) remembered() *runningHash {
	r := u.s.hashes.take(u.id)
	if r == nil || u.f == nil || r.file == "" || r.file != identity(u.f) {
		return nil
	}
	return r
}

// identity is what no other file has or had, as a handle has the generation of the inode beside its number,
// name_to_handle_at(2). It is empty where the file system has no handles.
func identity(f *os.File) string {
	h, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %x", h.Type(), h.Bytes())
}

// Cancel implements upload.
func (u *fileUpload) Cancel() error {
	u.end()
	u.s.hashes.take(u.id)
	if u.f == nil {
		return nil
	}
	return os.Remove(u.s.uploadPath(u.id))
}

// endedUploads remembers the IDs of uploads that ended here, at least the last maxEnded of them. Whoever comes back
// to one is told so. Should that be forgotten, or happen on another server, it is an upload without a byte.
type endedUploads struct {
	mu       sync.Mutex
	now, old map[endedID]struct{}
}

// endedID is the first half of an ID. A part of the string would keep all of the request in memory that it is from.
type endedID [16]byte

func (e *endedUploads) add(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == nil || len(e.now) >= maxEnded {
		e.old, e.now = e.now, map[endedID]struct{}{}
	}
	e.now[endedID([]byte(id[:16]))] = struct{}{}
}

func (e *endedUploads) has(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := endedID([]byte(id[:16]))
	_, now := e.now[key]
	_, old := e.old[key]
	return now || old
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
	file      string // its identity
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
	h.m[strings.Clone(id)] = r // see endedID
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
