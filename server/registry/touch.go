package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Garbage is what nothing leads to and whose inode has not changed (ctime) for the grace of
// the collection. A new name, which every push and mount makes, changes it; where nothing
// changes although a client was told that something is there, it is touched.

// touchAfter is how old the last change of an inode must be for touch to make a new one. It
// is a part of the protocol between servers: collections have at least MinGrace, so what was
// touched or found fresh a moment before they began is never old for them.
const touchAfter = 250 * time.Millisecond

// touch protects the file at path from collections. The caller holds, shared, the lock that
// collections take to remove it, so that success means: it is there and stays.
func touch(path string) error {
	st, err := lstat(path)
	if err != nil {
		return err
	}
	if time.Since(changed(&st)) < touchAfter {
		return nil
	}
	// Any change of the inode changes its ctime. The mtime stays what it was: when it came.
	times := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}
	err = unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.EROFS { // nobody collects anything there
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

func lstat(path string) (st unix.Stat_t, err error) {
	err = retry("lstat", path, func() error { return unix.Lstat(path, &st) })
	return st, err
}

// changed returns the ctime of an inode.
func changed(st *unix.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }

// lockBlobs locks the names of blobs in one directory of a repository: shared to make or
// confirm one, exclusively to collect. Who also locks the repository does that first.
func lockBlobs(ctx context.Context, dir string, how int) (unlock func(), err error) {
	if unlock, err = lockDir(ctx, dir, how); err != nil {
		return nil, fmt.Errorf("locking blobs: %w", err)
	}
	return unlock, nil
}

// ConfirmBlob implements blobs.
func (s *directory) ConfirmBlob(ctx context.Context, repo string, d digest.Digest) error {
	path := s.repoBlobPath(repo, d)
	unlock, err := lockBlobs(ctx, filepath.Dir(path), unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	return notFound(touch(path))
}

// ConfirmManifest implements manifests.
func (s *directory) ConfirmManifest(ctx context.Context, repo string, d digest.Digest) error {
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	return notFound(touch(s.recordPath(repo, d)))
}

// checkReferences returns a *missingError for the digests that repo has neither as a
// blob nor as a manifest, and protects those it has. BuildKit's cache refers to blobs from
// an index. The caller has the lock of the repository.
func (s *directory) checkReferences(repo string, refs []digest.Digest) error {
	var missing []digest.Digest
	for _, d := range refs {
		err := touch(s.repoBlobPath(repo, d))
		if errors.Is(err, fs.ErrNotExist) {
			err = touch(s.recordPath(repo, d))
		}
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, d)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return &missingError{missing}
	}
	return nil
}
