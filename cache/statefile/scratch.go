package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Scratch is a directory for a tree that is being made or removed. It is locked as long as its
// process lives, so whoever finds one that is not may remove it: SweepScratch.
type Scratch struct {
	f *os.File
}

// NewScratch makes a scratch directory in dir, which must exist. It is gone after Close, with all
// that was not renamed out of it, unless it was renamed itself.
func NewScratch(dir string) (*Scratch, error) {
	for {
		name := scratchName(dir)
		switch err := os.Mkdir(name, 0o700); {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("making a scratch directory: %w", err)
		}
		f, ok, err := lockScratch(name)
		if err != nil {
			return nil, err
		}
		if ok {
			return &Scratch{f}, nil
		} // a sweeper came between mkdir and flock
	}
}

func scratchName(dir string) string {
	return filepath.Join(dir, strconv.FormatUint(rand.Uint64(), 36))
}

// MoveAside makes a scratch directory in dir of the directory at path, which is to be removed, and
// returns its new path. It works on a full disk too, where NewScratch does not. What takes long is
// done by remove, or by a sweeper.
func MoveAside(path, dir string) (aside string, remove func() error, err error) {
	aside = scratchName(dir)
	if err := os.Rename(path, aside); err != nil {
		return "", nil, err
	}
	if f, ok, err := lockScratch(aside); ok && err == nil {
		return aside, (&Scratch{f}).Close, nil
	} // a sweeper came between rename and flock
	return aside, func() error { return RemoveAll(aside) }, nil
}

// lockScratch says whether the directory could be locked and is still there.
func lockScratch(name string) (*os.File, bool, error) {
	f, err := os.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	ok, err := flock(f, LockOptions{}, unix.LOCK_NB)
	if err != nil || !ok || !current(f, name) {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, true, nil
}

// Path returns the directory.
func (s *Scratch) Path() string { return s.f.Name() }

// Close removes the directory.
func (s *Scratch) Close() error {
	return errors.Join(RemoveAll(s.f.Name()), s.f.Close()) // unlocked last, so nobody removes beside us
}

// SweepScratch removes the scratch directories in dir whose processes died.
func SweepScratch(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		f, ok, err := lockScratch(filepath.Join(dir, e.Name()))
		if ok {
			err = (&Scratch{f}).Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
