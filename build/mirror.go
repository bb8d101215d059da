package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// Files of a caller are kept for its next build, so that only what changed has to come again.
//
//	ROOT/build/mirrors/HEX/lock      held by the build that uses tree; its time is that of the last use
//	ROOT/build/mirrors/HEX/about     what it is, for people
//	ROOT/build/mirrors/HEX/changing  there while tree is made like the caller's files: it means nothing then
//	ROOT/build/mirrors/HEX/tree
func (b *Builder) mirrors() string { return filepath.Join(b.Store.Root(), "build", "mirrors") }

// Mirror calls fill with the directory that the last build with this key left, or with an empty one, and
// returns it. Nobody else uses it until release; the key "" stands for one that is gone then. What fill failed to
// make is thrown away. about tells people what it is.
func (b *Builder) Mirror(key, about string, fill func(dir string) error) (dir string, release func() error, err error) {
	if key == "" {
		return b.scratchMirror(fill)
	}
	home := filepath.Join(b.mirrors(), digest.FromString(key).Encoded())
	unlock, free, err := lockMirror(home)
	if err != nil {
		return "", nil, err
	}
	if !free {
		return b.scratchMirror(fill) // another build of the same files goes on
	}
	if err := fillMirror(home, about, fill); err != nil {
		return "", nil, errors.Join(err, statefile.RemoveAll(filepath.Join(home, "tree")), unlock())
	}
	return filepath.Join(home, "tree"), unlock, nil
}

// lockMirror makes a mirror unless it is there, and says whether it could be locked.
func lockMirror(home string) (unlock func() error, free bool, err error) {
	for {
		if err := os.MkdirAll(home, 0o700); err != nil {
			return nil, false, err
		}
		unlock, free, err := statefile.TryLock(filepath.Join(home, "lock"), statefile.LockOptions{})
		if !errors.Is(err, fs.ErrNotExist) { // somebody else has just removed it
			return unlock, free, err
		}
	}
}

func fillMirror(home, about string, fill func(dir string) error) error {
	tree, mark := filepath.Join(home, "tree"), filepath.Join(home, "changing")
	if _, err := os.Lstat(mark); !errors.Is(err, fs.ErrNotExist) {
		if err := statefile.RemoveAll(tree); err != nil {
			return err
		}
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err == nil {
		err = os.WriteFile(filepath.Join(home, "about"), []byte(about), 0o600)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := fill(tree); err != nil {
		return err
	}
	now := time.Now()
	return errors.Join(os.Chtimes(filepath.Join(home, "lock"), now, now), os.Remove(mark))
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
	if err = os.Mkdir(tree, 0o755); err == nil {
		err = fill(tree)
	}
	if err != nil {
		return "", nil, errors.Join(err, scratch.Close())
	}
	return tree, scratch.Close, nil
}

// mirrorEntries lists the mirrors.
func (b *Builder) mirrorEntries(ctx context.Context) (list []CacheEntry, err error) {
	homes, err := os.ReadDir(b.mirrors())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, h := range homes {
		home := filepath.Join(b.mirrors(), h.Name())
		used, statErr := os.Stat(filepath.Join(home, "lock"))
		if statErr != nil {
			continue // it is just made, or goes
		}
		about, _ := os.ReadFile(filepath.Join(home, "about"))
		e := CacheEntry{ID: shortKey(h.Name()), Type: CacheLocal, Description: string(about), Created: used.ModTime(), LastUsed: used.ModTime(), mirror: h.Name()}
		if e.Size, err = sizeBelow(ctx, filepath.Join(home, "tree")); err != nil {
			return nil, fmt.Errorf("measuring %s: %w", about, err)
		}
		unlock, free, err := statefile.TryLock(filepath.Join(home, "lock"), statefile.LockOptions{Shared: true})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if e.InUse = !free; free {
			if err := unlock(); err != nil {
				return nil, err
			}
		}
		list = append(list, e)
	}
	return list, err
}

func sizeBelow(ctx context.Context, dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil // a build makes it anew while we look
		case err == nil && unix.Lstat(path, &st) == nil:
			size += st.Blocks * 512
		}
		return err
	})
	return size, err
}

// removeMirror removes a mirror, unless a build uses it.
func (b *Builder) removeMirror(name string) error {
	home := filepath.Join(b.mirrors(), name)
	lock := filepath.Join(home, "lock")
	unlock, free, err := statefile.TryLock(lock, statefile.LockOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !free {
		return err
	}
	for _, part := range []string{"tree", "about", "changing"} {
		err = errors.Join(err, statefile.RemoveAll(filepath.Join(home, part)))
	}
	if err == nil {
		// The lock goes last, and from then on what is there is a new build's.
		err = os.Remove(lock)
		_ = os.Remove(home)
	}
	return errors.Join(err, unlock())
}
