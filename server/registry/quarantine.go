package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// quarantineBlob implements verifiable: ROOT/quarantine/ keeps what there was.
func (s *directory) quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error) {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return nil, err
	}
	if err := s.quarantine(s.blobPath(d), d); err != nil {
		return nil, err
	}
	err = s.eachRepository("", func(repo string) error {
		was, err := s.quarantineLink(ctx, s.repoBlobPath(repo, d), d)
		if was {
			repos = append(repos, repo)
		}
		return ignoreNotFound(err)
	})
	return repos, err
}

// quarantineLink puts the blob of a repository out of the way if it is bad. Reading may take long, so that is done without
// the lock; what a push has put in its place meanwhile stays.
func (s *directory) quarantineLink(ctx context.Context, path string, d digest.Digest) (was bool, err error) {
	f, err := openRead(path)
	if err != nil {
		return false, notFound(err)
	}
	defer f.Close() // not before the end: no other file gets its inode
	h := newHash(d.Algorithm())
	if _, err := io.Copy(h, f); err == nil && digest.NewDigest(d.Algorithm(), h) == d {
		return false, nil
	}
	unlock, err := lockBlobs(ctx, filepath.Dir(path), unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer unlock()
	read, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(path)
	if err != nil || !os.SameFile(read, now) {
		return false, notFound(err)
	}
	return true, s.quarantine(path, d)
}

func (s *directory) quarantine(path string, d digest.Digest) error {
	err := os.Rename(path, filepath.Join(s.root, "quarantine", flatDigest(d)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// rename(2) does nothing to two names of one file.
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.sync.dir(filepath.Dir(path))
}

// quarantineManifest implements verifiable.
func (s *directory) quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return nil, err
	}
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	defer unlock()
	path := s.recordPath(repo, d)
	if r, _, err := readRecord(path); errdefs.IsNotFound(err) || err == nil && r.is(d) {
		return nil, nil // it has been deleted, or pushed again
	}
	if tags, err = s.removeTagsOf(repo, path, d, false); err != nil {
		return tags, ignoreNotFound(err)
	}
	return tags, s.quarantine(path, d)
}
