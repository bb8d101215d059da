// Package snapshot owns the writable directories that lie on top of layers: one upper and
// work directory, with the list of layers below, for each container and running build step.
package snapshot

import (
	"context"
	"errors"
	"time"

	"github.com/teu-dev/teu/cache/mount"
)

var errTODO = errors.New("not written yet")

// A Snapshot is an ordered list of layers with an upper directory.
type Snapshot struct {
	ID     string
	Layers []string // IDs of the layers, lowest first
	Lowers []string // overlay lower directories, top first

	Dir, Upper, Work string // where it is; Dir holds the other two
}

// Overlay describes the mount of the snapshot.
func (sn Snapshot) Overlay() mount.Overlay {
	return mount.Overlay{Lowers: sn.Lowers, Upper: sn.Upper, Work: sn.Work}
}

// A Store keeps snapshots in a directory of its own. Any number of processes may use one directory.
type Store struct {
	dir string
}

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) { return nil, errTODO }

// Prepare makes the empty snapshot id over lowers, top first, which stand for the layers
// layerIDs, lowest first. Its root has the mode and owner of the topmost lower. An id that
// exists is an errdefs.ErrAlreadyExists.
func (s *Store) Prepare(ctx context.Context, id string, lowers, layerIDs []string) (Snapshot, error) {
	return Snapshot{}, errTODO
}

// Get returns the snapshot id or an errdefs.ErrNotFound.
func (s *Store) Get(id string) (Snapshot, error) { return Snapshot{}, errTODO }

// Remove deletes the snapshot id with its upper. An absent one is not an error. It must be unmounted.
func (s *Store) Remove(ctx context.Context, id string) error { return errTODO }

// Sync makes the record of the snapshot id, not the files in its upper, survive a power loss.
func (s *Store) Sync(id string) error { return errTODO }

// Touch says that the snapshot id is used now, and whether it exists.
func (s *Store) Touch(id string) (bool, error) { return false, errTODO }

// Info is what Walk tells about a snapshot.
type Info struct {
	Snapshot
	Used time.Time // when it was made or touched last
}

// Walk calls fn for each snapshot, in no order, until fn returns an error.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error { return errTODO }
