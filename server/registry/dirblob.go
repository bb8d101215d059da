package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// OpenBlob implements blobs.
func (s *directory) OpenBlob(_ context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, error) {
	f, err := openRead(s.repoBlobPath(repo, d))
	if err != nil {
		return nil, notFound(err)
	}
	return f, nil
}

// openRead opens a regular file or a directory.
func openRead(path string) (*os.File, error) { return openFile(path, unix.O_RDONLY) }

// openFile opens or makes a regular file, or opens a directory. os.OpenFile would ask epoll
// about it first, which takes five system calls.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := openFD(path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openFD is openFile for what is only locked, written or synced. The caller closes it.
func openFD(path string, flags int) (fd int, err error) {
	err = retry("open", path, func() error {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

// retry calls f until it is not interrupted by a signal.
func retry(op, path string, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
}

// MountBlob implements blobs.
func (s *directory) MountBlob(ctx context.Context, repo, from string, d digest.Digest) error {
	source := s.blobPath(d)
	if from != "" {
		source = s.repoBlobPath(from, d)
	}
	if _, err := os.Lstat(source); err != nil {
		return notFound(err) // before a directory is made for it
	}
	target := s.repoBlobPath(repo, d)
	if err := s.sync.mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	unlock, err := lockBlobs(ctx, filepath.Dir(target), unix.LOCK_SH)
	if err != nil {
		return err
	}
	err = s.linkBlob(source, target)
	unlock()
	if err != nil {
		return notFound(err)
	}
	return s.sync.dir(filepath.Dir(target))
}

// linkBlob makes target another name of source. That target is there already is fine. The
// caller has the lock of the target's directory.
func (s *directory) linkBlob(source, target string) error {
	err := os.Link(source, target)
	if errors.Is(err, fs.ErrExist) {
		return touch(target)
	}
	if !errors.Is(err, unix.EMLINK) {
		return err
	}
	// 65,000 repositories have it, which is all that ext4 can count. Begin a new file.
	tmp, err := s.copyTemp(source)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Rename(tmp, source)
}

// copyTemp copies a file into tmp, durably.
func (s *directory) copyTemp(source string) (path string, err error) {
	in, err := os.Open(source)
	if err != nil {
		return "", err
	}
	defer in.Close()
	path = s.tempPath()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		os.Remove(path)
		return "", err
	}
	return path, nil
}

// RemoveBlob implements blobs.
func (s *directory) RemoveBlob(ctx context.Context, repo string, d digest.Digest) error {
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
	if errdefs.IsNotFound(err) {
		unlock, err = func() {}, nil // no manifests, nothing that could come to refer to it
	}
	if err != nil {
		return err
	}
	defer unlock()
	path := s.repoBlobPath(repo, d)
	if err := os.Remove(path); err != nil {
		return notFound(err)
	}
	return s.sync.dir(filepath.Dir(path))
}

// adoptFile makes the file at path, which is on disk or will be by flush, the blob d of
// repo, and removes the name path.
//
// If the registry has the blob, repo gets a link to that and the file goes. Else the file
// itself moves: it never has a second name while somebody may still write to it.
func (s *directory) adoptFile(ctx context.Context, path, repo string, d digest.Digest, size int64, flush func() error) error {
	target, shared := s.repoBlobPath(repo, d), s.blobPath(d)
	linked, err := s.linkShared(ctx, target, shared, size)
	if linked {
		err = os.Remove(path)
	} else if err == nil {
		if err = flush(); err == nil {
			err = s.moveBlob(ctx, path, time.Time{}, target, shared, size)
		}
	}
	if err != nil {
		return err
	}
	return s.sync.dir(filepath.Dir(target))
}

// adoptBytes is adoptFile for bytes that have no file.
func (s *directory) adoptBytes(ctx context.Context, b []byte, repo string, d digest.Digest) error {
	target, shared := s.repoBlobPath(repo, d), s.blobPath(d)
	linked, err := s.linkShared(ctx, target, shared, int64(len(b)))
	if err != nil {
		return err
	}
	if !linked {
		begun := time.Now()
		tmp, err := s.writeTemp(b)
		if err != nil {
			return err
		}
		if err := s.moveBlob(ctx, tmp, begun, target, shared, int64(len(b))); err != nil {
			return errors.Join(err, ignoreNotFound(notFound(os.Remove(tmp))))
		}
	}
	return s.sync.dir(filepath.Dir(target))
}

// linkShared makes the directory of target, and target a link to the blob if the registry has it.
func (s *directory) linkShared(ctx context.Context, target, shared string, size int64) (linked bool, err error) {
	if err := s.sync.mkdir(filepath.Dir(target)); err != nil {
		return false, err
	}
	if !sameSize(shared, size) {
		return false, nil
	}
	unlock, err := lockBlobs(ctx, filepath.Dir(target), unix.LOCK_SH)
	if err != nil {
		return false, err
	}
	defer unlock()
	return s.linkBlob(shared, target) == nil && sameSize(target, size), nil
}

// moveBlob gives the file at path, written when it says so or later, its name in the repository, and the one by
// which others find it.
func (s *directory) moveBlob(ctx context.Context, path string, written time.Time, target, shared string, size int64) error {
	unlock, err := lockBlobs(ctx, filepath.Dir(target), unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Rename(path, target); err != nil {
		return err
	}
	if err := s.shareBlob(target, shared, size); err != nil {
		return err
	}
	if time.Since(written) < touchAfter {
		return nil
	}
	err = touch(target) // not every file system counts a new name as a change
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was there, and somebody has deleted it
	}
	return err
}

// shareBlob lets other repositories find a blob. It need not be durable: without it only
// the sharing is lost.
func (s *directory) shareBlob(target, shared string, size int64) error {
	err := os.Link(target, shared)
	if errors.Is(err, fs.ErrNotExist) { // or so is target, see below
		if err := os.MkdirAll(filepath.Dir(shared), 0o700); err != nil {
			return err
		}
		err = os.Link(target, shared)
	}
	if errors.Is(err, fs.ErrExist) && !sameSize(shared, size) {
		// A disk has lost part of it. What was just verified heals it.
		if err := os.Remove(shared); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replacing a broken blob: %w", err)
		}
		err = os.Link(target, shared)
	}
	// link(2) knows no file that another push is just replacing by its own, to share that.
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sameSize reports whether there is a file of this size.
func sameSize(path string, size int64) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Size() == size
}
