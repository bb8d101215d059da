package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// Guard makes Touch hold the lock named path shared. Whoever calls Expire holds it exclusively, so
// that a layer somebody was told is there does not go. Guard is called before the store is used.
func (s *Store) Guard(path string) { s.guard = path }

// lockTouch keeps Expire away.
func (s *Store) lockTouch() (unlock func() error, err error) {
	if s.guard == "" {
		return func() error { return nil }, nil
	}
	// Others hold it for moments only.
	return statefile.Lock(context.Background(), s.guard, statefile.LockOptions{Shared: true})
}

// Expire takes the name of the layer id away at once, unless it was used at or after before. What
// is left to do, and takes long, is done by remove. It is nil if the layer stays or is absent.
func (s *Store) Expire(id string, before time.Time) (remove func() error, err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	fi, err := os.Stat(s.record(id))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.ModTime().Before(before) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var diffID digest.Digest
	if r, err := s.readRecord(id); err == nil {
		diffID = r.DiffID
	} else if !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrDataLoss) {
		return nil, err
	}
	aside, remove, err := statefile.MoveAside(filepath.Join(s.dir, id), s.tmp())
	if err != nil {
		return nil, fmt.Errorf("removing the layer %s: %w", id, err)
	}
	if diffID != "" {
		s.unindex(diffID, id, filepath.Join(aside, "link"))
	}
	if err := ignoreMissing(os.Remove(s.unsynced(id))); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// unindex moves the link of d to aside if it leads to id. That it led there a moment ago is not
// enough: another layer with the same diffID may just have been sealed. A link that stays leads
// nowhere, which is nothing either.
func (s *Store) unindex(d digest.Digest, id, aside string) {
	link := s.byDiffID(d)
	if to, err := os.Readlink(link); err != nil || to != id {
		return
	}
	if os.Rename(link, aside) != nil {
		return
	}
	if to, err := os.Readlink(aside); err == nil && to != id {
		_ = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, link, unix.RENAME_NOREPLACE)
	}
}
