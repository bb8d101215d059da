package statefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LockOptions change how Lock and TryLock work.
type LockOptions struct {
	// Shared takes a lock that others may hold too, but not while one holds it exclusively.
	Shared bool
}

// Lock waits for the lock named path, creating its file, until ctx ends. The lock belongs to
// the call, not to the process: two goroutines exclude each other too. Whoever holds it
// exclusively may remove its file; those who wait then lock a new one. A call that was given up has
// the lock for a moment once it is free.
func Lock(ctx context.Context, path string, o LockOptions) (unlock func() error, err error) {
	for {
		f, err := openLock(path)
		if err != nil {
			return nil, err
		}
		if err := wait(ctx, f, o); err != nil {
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, err)
		}
		if current(f, path) {
			return unlocker(f), nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// wait locks f, or closes it. The kernel wakes who waits as soon as the lock is free; asking again and
// again, fifty starts at once spent a third of their time asleep beside a free lock.
func wait(ctx context.Context, f *os.File, o LockOptions) error {
	if ok, err := flock(f, o, unix.LOCK_NB); ok || err != nil {
		if err != nil {
			f.Close()
		}
		return err
	}
	locked := make(chan error, 1)
	go func() {
		_, err := flock(f, o, 0)
		locked <- err
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		go func() { // nothing ends a flock but the lock
			if <-locked == nil {
				unflock(f)
			}
			f.Close()
		}()
		return context.Cause(ctx)
	}
}

// TryLock is Lock without waiting; ok says whether the lock was taken.
func TryLock(path string, o LockOptions) (unlock func() error, ok bool, err error) {
	for {
		f, err := openLock(path)
		if err != nil {
			return nil, false, err
		}
		ok, err := flock(f, o, unix.LOCK_NB)
		if err != nil || !ok {
			return nil, false, errors.Join(err, f.Close())
		}
		if current(f, path) {
			return unlocker(f), true, nil
		}
		if err := f.Close(); err != nil {
			return nil, false, err
		}
	}
}

// SweepLocks removes from dir the locks, which end in ".lock", that nobody holds.
func SweepLocks(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		unlock, ok, lerr := TryLock(path, LockOptions{})
		if lerr == nil && ok {
			lerr = errors.Join(os.Remove(path), unlock())
		}
		err = errors.Join(err, lerr)
	}
	return err
}

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	return f, nil
}

func unlocker(f *os.File) func() error {
	return func() error { return errors.Join(unflock(f), f.Close()) }
}

// flock says whether f could be locked, which with unix.LOCK_NB it cannot while it is another's.
func flock(f *os.File, o LockOptions, flags int) (bool, error) {
	how := unix.LOCK_EX
	if o.Shared {
		how = unix.LOCK_SH
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how|flags); err {
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
