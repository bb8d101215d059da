package layer

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

	"github.com/teu-dev/teu/cache/statefile"
)

// Sync makes every layer that exists now survive a power loss. It is one syncfs(2), and
// cheap when nothing is to be done.
func (s *Store) Sync(ctx context.Context) error {
	pending, err := s.pending()
	if err != nil || len(pending) == 0 {
		return err
	}
	before := map[string]os.FileInfo{} // the records as they will be on the disk
	for _, id := range pending {
		fi, err := os.Stat(s.record(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		before[id] = fi
	}
	if err := syncfs(s.dir); err != nil {
		return err
	}
	for id, fi := range before {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.markSynced(id, fi); err != nil {
			return err
		}
	}
	return nil
}

// Synced says whether the layer id survives a power loss by now.
func (s *Store) Synced(id string) (bool, error) {
	if err := checkID(id); err != nil {
		return false, err
	}
	_, err := os.Lstat(s.marker(id))
	return err == nil, ignoreMissing(err)
}

// pending returns the layers of this boot that may not be on the disk yet, and forgets those that are gone.
func (s *Store) pending() (ids []string, err error) {
	entries, err := os.ReadDir(s.unsynced(""))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		r, err := s.readRecord(e.Name())
		switch {
		case err == nil && r.stale:
		case err == nil && !r.synced:
			ids = append(ids, e.Name())
		case err == nil:
			if err := ignoreMissing(os.Remove(s.unsynced(e.Name()))); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// markSynced notes that the layer was on the disk when its record was fi. One that was sealed meanwhile
// waits for the next time.
func (s *Store) markSynced(id string, fi os.FileInfo) (err error) {
	unlock, ok, err := statefile.TryLock(s.sealLock(id), statefile.LockOptions{})
	if err != nil || !ok {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(s.sealLock(id)), unlock()) }()
	now, err := os.Stat(s.record(id))
	if err != nil || !os.SameFile(fi, now) {
		return ignoreMissing(err)
	}
	f, err := os.Create(s.marker(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	return ignoreMissing(os.Remove(s.unsynced(id)))
}

// Lost returns the layers that were not on the disk for certain when the machine went down, and their diffIDs, "" of
// those that have none. Prove or Forget ends that.
func (s *Store) Lost() (map[string]digest.Digest, error) {
	entries, err := os.ReadDir(s.unsynced(""))
	if err != nil {
		return nil, err
	}
	lost := map[string]digest.Digest{}
	for _, e := range entries {
		// One without a record may just be being made.
		r, err := s.readRecord(e.Name())
		if errors.Is(err, errdefs.ErrDataLoss) {
			lost[e.Name()] = ""
		} else if err == nil && r.stale {
			lost[e.Name()] = r.DiffID
		}
	}
	return lost, nil
}

// Prove says whether a layer that Lost has returned is all there: its tar still has the diffID that Seal has computed.
// From then on it is one that was synced. A layer that was unpacked cannot be turned back into its tar, and proves nothing.
func (s *Store) Prove(ctx context.Context, id string) (bool, error) {
	r, err := s.read(id)
	if err != nil || !r.Sealed {
		return false, ignoreAbsent(err)
	}
	fi, err := os.Stat(s.record(id))
	if err != nil {
		return false, ignoreMissing(err)
	}
	if err := s.Diff(ctx, id, io.Discard, DiffOptions{}); err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, nil // whatever cannot be read of it is lost
	}
	if err := s.index(r.DiffID, id); err != nil {
		return false, err
	}
	return true, s.markSynced(id, fi)
}

// Forget removes a layer that Lost has returned.
func (s *Store) Forget(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.discard(id); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(s.unsynced(id)))
}

func (s *Store) unsynced(id string) string { return filepath.Join(s.dir, "unsynced", id) }

// sealLock is the lock of the record of a layer that was built.
func (s *Store) sealLock(id string) string { return filepath.Join(s.tmp(), id+".lock") }

func ignoreAbsent(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))), f.Close())
}
