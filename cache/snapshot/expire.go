package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// Guard makes Touch hold the lock named path shared. Whoever calls Expire holds it exclusively, so
// that a snapshot somebody was told is there does not go. Guard is called before the store is used.
func (s *Store) Guard(path string) { s.guard = path }

// lockTouch keeps Expire away.
func (s *Store) lockTouch() (unlock func() error, err error) {
	if s.guard == "" {
		return func() error { return nil }, nil
	}
	// Others hold it for moments only.
	return statefile.Lock(context.Background(), s.guard, statefile.LockOptions{Shared: true})
}

// Expire takes the name of the snapshot id away at once, unless it was used at or after before.
// What is left to do, and takes long, is done by remove. It is nil if the snapshot stays or is absent.
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
	_, remove, err = statefile.MoveAside(filepath.Join(s.dir, id), filepath.Join(s.dir, tmpName))
	if err != nil {
		return nil, fmt.Errorf("removing the snapshot %s: %w", id, err)
	}
	return remove, nil
}
