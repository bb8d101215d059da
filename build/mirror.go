package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/statefile"
)

// Files of a caller are kept for its next build, so that only what changed has to come again.
//
//	ROOT/build/mirrors/HEX/lock     held by the build that uses tree; its time is that of the last use
//	ROOT/build/mirrors/HEX/changing there while tree is made like the caller's files: it means nothing then
//	ROOT/build/mirrors/HEX/tree
func (b *Builder) mirrors() string { return filepath.Join(b.Store.Root(), "build", "mirrors") }

// Mirror calls fill with the directory that the last build with this key left, or with an empty one, and
// returns it. Nobody else uses it until release; the key "" stands for one that is gone then. What fill failed to make is thrown away.
func (b *Builder) Mirror(key string, fill func(dir string) error) (dir string, release func() error, err error) {
	if key == "" {
		return b.scratchMirror(fill)
	}
	home := filepath.Join(b.mirrors(), digest.FromString(key).Encoded())
	if err := os.MkdirAll(home, 0o700); err != nil {
		return "", nil, err
	}
	lock := filepath.Join(home, "lock")
	unlock, free, err := statefile.TryLock(lock, statefile.LockOptions{})
	if err != nil {
		return "", nil, err
	}
	if !free {
		return b.scratchMirror(fill) // another build of the same files goes on
	}
	tree, mark := filepath.Join(home, "tree"), filepath.Join(home, "changing")
	if err := fillMirror(tree, mark, fill); err != nil {
		return "", nil, errors.Join(err, statefile.RemoveAll(tree), unlock())
	}
	now := time.Now()
	_ = os.Chtimes(lock, now, now) // at worst it goes early
	return tree, unlock, nil
}

func fillMirror(tree, mark string, fill func(dir string) error) error {
	if _, err := os.Lstat(mark); !errors.Is(err, fs.ErrNotExist) {
		if err := statefile.RemoveAll(tree); err != nil {
			return err
		}
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := fill(tree); err != nil {
		return err
	}
	return os.Remove(mark)
}

// scratchMirror is a mirror that nothing is kept of.
func (b *Builder) scratchMirror(fill func(dir string) error) (string, func() error, error) {
	parent := filepath.Join(b.Store.Root(), "build", "tmp")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, err
	}
	if err := statefile.SweepScratch(parent); err != nil {
		return "", nil, err
	}
	scratch, err := statefile.NewScratch(parent)
	if err != nil {
		return "", nil, err
	}
	tree := filepath.Join(scratch.Path(), "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", nil, errors.Join(err, scratch.Close())
	}
	if err := fill(tree); err != nil {
		return "", nil, errors.Join(err, scratch.Close())
	}
	return tree, scratch.Close, nil
}
