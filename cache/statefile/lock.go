package statefile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// LockOptions change how Lock and TryLock work.
type LockOptions struct {
	// Shared takes a lock that others may hold too, but not while one holds it exclusively.
	Shared bool
}

// Lock waits for the lock named path, creating its file, until ctx ends. The lock belongs to
// the call, not to the process: two goroutines exclude each other too. Whoever holds it
// exclusively may remove its file; those who wait then lock a new one.
func Lock(ctx context.Context, path string, o LockOptions) (unlock func() error, err error) {
	// A blocking flock cannot be given up when ctx ends, so ask again and again.
	const longest = 20 * time.Millisecond
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, longest) {
		unlock, ok, err := TryLock(path, o)
		if err != nil || ok {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// TryLock is Lock without waiting; ok says whether the lock was taken.
func TryLock(path string, o LockOptions) (unlock func() error, ok bool, err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, false, fmt.Errorf("opening the lock: %w", err)
		}
		ok, err := flock(f, o)
		if err != nil || !ok {
			return nil, false, errors.Join(err, f.Close())
		}
		if current(f, path) {
			return func() error { return errors.Join(unflock(f), f.Close()) }, true, nil
		}
		if err := f.Close(); err != nil {
			return nil, false, err
		}
	}
}

// SweepLocks removes from dir the locks, which end in ".lock", that nobody holds.
func SweepLocks(dir string) error {
	locks, err := filepath.Glob(filepath.Join(dir, "*.lock"))
	for _, path := range locks {
		unlock, ok, lerr := TryLock(path, LockOptions{})
		if lerr == nil && ok {
			lerr = errors.Join(os.Remove(path), unlock())
		}
		err = errors.Join(err, lerr)
	}
	return err
}

// flock says whether f could be locked.
func flock(f *os.File, o LockOptions) (bool, error) {
	how := unix.LOCK_EX | unix.LOCK_NB
	if o.Shared {
		how = unix.LOCK_SH | unix.LOCK_NB
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how); err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, fmt.Errorf("flock %s: %w", f.Name(), err)
		}
	}
}

// unflock unlocks f at once. Closing it does not, while another thread is between fork and exec:
// the child has the descriptor too until then.
func unflock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlocking %s: %w", f.Name(), err)
	}
	return nil
}

// current says whether path is still the name of f: the holder before us may have removed it.
func current(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(ours, named)
}
