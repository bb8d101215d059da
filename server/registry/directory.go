package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// directory is the storage in a directory of a local file system that has hard links and
// flock(2). The package comment describes what is in it.
type directory struct {
	root    string
	sync    *syncer
	hashes  hashes
	ended   endedUploads
	buffers buffers
	tags    listCache
	clean   cleanList
}

var _ storage = (*directory)(nil)

// layoutLine is what ROOT/layout says.
const layoutLine = "teu registry 1\n"

// openDirectory opens the storage in root, and makes it if there is none and need not be.
func openDirectory(root string, existing bool) (*directory, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &directory{root: root, sync: newSyncer(root)}
	err = s.checkLayout()
	missing := errdefs.IsNotFound(err) && !existing
	if err != nil && !missing {
		return nil, err
	}
	// Others on the machine have no business with private images: 0700.
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	for _, dir := range []string{"blobs", "repositories", "uploads", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, err
		}
	}
	if missing {
		if err := s.putLayout(); err != nil {
			return nil, err
		}
	}
	return s, errors.Join(s.sync.dir(root), s.sync.dir(filepath.Dir(root)))
}

func (s *directory) layoutPath() string { return filepath.Join(s.root, "layout") }

// checkLayout refuses a tree of a later teu. errdefs.ErrNotFound: there is no registry.
func (s *directory) checkLayout() error {
	b, err := os.ReadFile(s.layoutPath())
	if err != nil {
		return noRegistry(notFound(err))
	}
	if string(b) != layoutLine {
		return fmt.Errorf("%s is not %q: made by another version of teu, or not a registry: %w", s.layoutPath(), layoutLine[:len(layoutLine)-1], errdefs.ErrFailedPrecondition)
	}
	return nil
}

// putLayout marks a new tree.
func (s *directory) putLayout() error {
	tmp, err := s.writeTemp([]byte(layoutLine))
	if err != nil {
		return err
	}
	return os.Rename(tmp, s.layoutPath())
}

// Paths. All their parts have been checked by the API.

func (s *directory) repo(name string) string { return filepath.Join(s.root, "repositories", name) }

func (s *directory) blobPath(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), hex[:2], hex)
}

func (s *directory) repoBlobPath(repo string, d digest.Digest) string {
	return s.repo(repo) + "/_blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (s *directory) recordPath(repo string, d digest.Digest) string {
	return s.repo(repo) + "/_manifests/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (s *directory) tagPath(repo, tag string) string { return s.repo(repo) + "/_tags/" + tag }

// referrersPath is the directory of the manifests whose subject is d.
func (s *directory) referrersPath(repo string, d digest.Digest) string {
	return s.repo(repo) + "/_referrers/" + flatDigest(d)
}

// flatDigest is a digest as the name of a file.
func flatDigest(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

func (s *directory) tempPath() string {
	return filepath.Join(s.root, "tmp", randomHex())
}

func randomHex() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// writeTemp writes a file into tmp that is on disk when it returns. The caller gives it a
// name by link or rename, and removes it.
func (s *directory) writeTemp(b []byte) (path string, err error) {
	path = s.tempPath()
	fd, err := openFD(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", err
	}
	for n := 0; len(b) > 0 && err == nil; b = b[n:] {
		err = retry("write", path, func() (err error) {
			n, err = unix.Write(fd, b)
			n = max(n, 0)
			return err
		})
	}
	if err == nil {
		err = retry("fsync", path, func() error { return unix.Fsync(fd) })
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
}

// lockRepository locks what repo consists of: shared to add a manifest after its references
// were seen, exclusively to remove something they could refer to. It is held for moments.
// errdefs.ErrNotFound when the repository has no manifests.
func (s *directory) lockRepository(ctx context.Context, repo string, how int) (unlock func(), err error) {
	unlock, err = lockDir(ctx, s.repo(repo)+"/_manifests", how)
	if err != nil {
		return nil, fmt.Errorf("locking repository %s: %w", repo, err)
	}
	return unlock, nil
}

// lockDir waits for a lock on a directory. errdefs.ErrNotFound if there is none.
func lockDir(ctx context.Context, dir string, how int) (unlock func(), err error) {
	fd, err := openFD(dir, os.O_RDONLY)
	if err != nil {
		return nil, notFound(err)
	}
	if err := flock(ctx, fd, how); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}

// flock waits for a lock on an open file. Closing that ends it.
func flock(ctx context.Context, fd, how int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// notFound gives an error that a file does not exist its class.
func notFound(err error) error {
	// ENOTDIR: no name of ours is below a file, but "a" may be a file of somebody else.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return err
}
