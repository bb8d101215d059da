package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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
		path := s.repoBlobPath(repo, d)
		bad, err := isBad(path, d)
		if err != nil || !bad {
			return ignoreNotFound(err) // it has been pushed again
		}
		unlock, err := lockBlobs(ctx, filepath.Dir(path), unix.LOCK_EX)
		if err != nil {
			return ignoreNotFound(err)
		}
		defer unlock()
		repos = append(repos, repo)
		return s.quarantine(path, d)
	})
	return repos, err
}

// isBad reads a file.
func isBad(path string, d digest.Digest) (bool, error) {
	f, err := openRead(path)
	if err != nil {
		return false, notFound(err)
	}
	defer f.Close()
	h := newHash(d.Algorithm())
	_, err = io.Copy(h, f)
	return err != nil || digest.NewDigest(d.Algorithm(), h) != d, nil
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
	if tags, err = s.removeTagsOf(repo, path, d, false); err != nil {
		return tags, ignoreNotFound(err)
	}
	return tags, s.quarantine(path, d)
}
