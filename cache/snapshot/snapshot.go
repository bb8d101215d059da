// Package snapshot owns the writable directories that lie on top of layers: one upper and
// work directory, with the list of layers below, for each container and running build step.
//
//	DIR/ID/snapshot.json   the record; its mtime is when the snapshot was used last
//	DIR/ID/upper, work     the directories of overlayfs
//	DIR/tmp/               snapshots being made and removed
//
// A directory without a record is what a power loss can leave.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/statefile"
)

// A Snapshot is an ordered list of layers with an upper directory.
type Snapshot struct {
	ID     string
	Layers []string // IDs of the layers, lowest first
	Lowers []string // overlay lower directories, top first

	Dir, Upper, Work string // where it is; Dir holds the other two
	UserXattr        bool   // made by a process that is not root, for a mount with userxattr
}

// Overlay describes the mount of the snapshot.
func (sn Snapshot) Overlay() mount.Overlay {
	return mount.Overlay{Lowers: sn.Lowers, Upper: sn.Upper, Work: sn.Work, UserXattr: sn.UserXattr}
}

// View describes a mount of what the snapshot is now, for reading: it goes beside one of the snapshot itself.
func (sn Snapshot) View() mount.Overlay {
	return mount.Overlay{Lowers: append([]string{sn.Upper}, sn.Lowers...), UserXattr: sn.UserXattr}
}

// A Store keeps snapshots in a directory of its own. Any number of processes may use one directory.
// A Store may be used by many goroutines.
type Store struct {
	dir   string
	guard string // see Guard
}

// record is snapshot.json.
type record struct {
	Layers    []string `json:"layers"`
	Lowers    []string `json:"lowers"`
	UserXattr bool     `json:"userXattr,omitempty"`
}

const tmpName = "tmp"

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, tmpName), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Prepare makes the empty snapshot id over lowers, top first, which stand for the layers
// layerIDs, lowest first. Its root has the mode, owner and attributes of the topmost lower. An
// id that exists is an errdefs.ErrAlreadyExists.
func (s *Store) Prepare(ctx context.Context, id string, lowers, layerIDs []string) (_ Snapshot, err error) {
	if err := checkID(id); err != nil {
		return Snapshot{}, err
	}
	if err := ctx.Err(); err != nil {
		return Snapshot{}, context.Cause(ctx)
	}
	if len(lowers) == 0 {
		return Snapshot{}, fmt.Errorf("preparing the snapshot %s: no lower directory: %w", id, errdefs.ErrInvalidArgument)
	}
	scratch, err := statefile.NewScratch(filepath.Join(s.dir, tmpName))
	if err != nil {
		return Snapshot{}, fmt.Errorf("preparing the snapshot %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	r := &record{Layers: layerIDs, Lowers: lowers, UserXattr: mount.NeedsUserXattr()}
	if err := s.make(scratch.Path(), r); err != nil {
		return Snapshot{}, fmt.Errorf("preparing the snapshot %s: %w", id, err)
	}
	if err := s.publish(scratch.Path(), id); err != nil {
		return Snapshot{}, err
	}
	return s.snapshot(id, r), nil
}

func (s *Store) make(dir string, r *record) error {
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	// The root of an overlay looks like that of its topmost directory, which is the upper.
	if err := copyAttributes(filepath.Join(dir, "upper"), r.Lowers[0]); err != nil {
		return err
	}
	return statefile.Write(filepath.Join(dir, "snapshot.json"), r, statefile.WriteOptions{})
}

// publish gives the finished directory its name.
func (s *Store) publish(dir, id string) error {
	for {
		err := os.Rename(dir, filepath.Join(s.dir, id))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		switch _, err := os.Lstat(s.record(id)); {
		case err == nil:
			return fmt.Errorf("snapshot %s: %w", id, errdefs.ErrAlreadyExists)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := s.discard(id); err != nil {
			return err
		}
	}
}

// Get returns the snapshot id or an errdefs.ErrNotFound.
func (s *Store) Get(id string) (Snapshot, error) {
	if err := checkID(id); err != nil {
		return Snapshot{}, err
	}
	var r record
	if err := statefile.Read(s.record(id), &r); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return s.snapshot(id, &r), nil
}

// Remove deletes the snapshot id with its upper. An absent one is not an error. It must be unmounted.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := s.discard(id); err != nil {
		return fmt.Errorf("removing the snapshot %s: %w", id, err)
	}
	return nil
}

// discard takes the name away at once, and the files after that: meanwhile there may be a new
// snapshot of that name.
func (s *Store) discard(id string) error {
	_, remove, err := statefile.MoveAside(filepath.Join(s.dir, id), filepath.Join(s.dir, tmpName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return remove()
}

// Sync makes the record of the snapshot id, not the files in its upper, survive a power loss.
func (s *Store) Sync(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	f, err := os.Open(s.record(id))
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	for _, dir := range []string{filepath.Join(s.dir, id), s.dir} {
		if err := statefile.SyncDir(dir); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
		}
	}
	return nil
}

// Touch says that the snapshot id is used now, and whether it exists.
func (s *Store) Touch(id string) (found bool, err error) {
	if checkID(id) != nil {
		return false, nil
	}
	unlock, err := s.lockTouch()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	now := time.Now()
	err = os.Chtimes(s.record(id), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Info is what Walk tells about a snapshot.
type Info struct {
	Snapshot
	Used time.Time // when it was made or touched last
}

// Walk calls fn for each snapshot, in no order, until fn returns an error.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error {
	ids, err := s.names()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		fi, err := os.Stat(s.record(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sn, err := s.Get(id)
		switch {
		case errors.Is(err, errdefs.ErrNotFound):
			continue
		case errors.Is(err, errdefs.ErrDataLoss): // by a power loss; it still is there
			sn = s.snapshot(id, &record{})
		case err != nil:
			return err
		}
		if err := fn(Info{Snapshot: sn, Used: fi.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

// Sweep removes what processes that died have left behind.
func (s *Store) Sweep() error {
	ids, err := s.names()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := os.Lstat(s.record(id)); errors.Is(err, fs.ErrNotExist) {
			if err := s.discard(id); err != nil {
				return err
			}
		}
	}
	return statefile.SweepScratch(filepath.Join(s.dir, tmpName))
}

func (s *Store) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	var ids []string
	for _, e := range entries {
		if checkID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

func (s *Store) record(id string) string { return filepath.Join(s.dir, id, "snapshot.json") }

func (s *Store) snapshot(id string, r *record) Snapshot {
	dir := filepath.Join(s.dir, id)
	return Snapshot{
		ID: id, Layers: r.Layers, Lowers: r.Lowers, UserXattr: r.UserXattr,
		Dir: dir, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
	}
}

// checkID keeps what is no ID out of paths.
func checkID(id string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if id == "" || id == tmpName || len(id) > 200 || id[0] == '.' || strings.Trim(id, letters) != "" {
		return fmt.Errorf("snapshot %q: %w", id, errdefs.ErrNotFound)
	}
	return nil
}
