package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/teu-dev/teu/cache/statefile"
	"golang.org/x/sys/unix"
)

// Adopt makes the overlay upper directory a layer by renaming it. The upper must be
// unmounted and on the filesystem of the store (else errdefs.ErrFailedPrecondition). The
// layer's DiffID and Size are unknown until Seal.
func (s *Store) Adopt(ctx context.Context, upper string) (Layer, error) {
	return s.adopt(ctx, upper, newID())
}

// Named is the ID of the layer that AdoptAs makes of a name.
func Named(name string) string {
	sum := sha256.Sum256([]byte(name))
	return builtPrefix + hex.EncodeToString(sum[:16])
}

// AdoptAs is Adopt of a directory that is made again and again in the same way, and found by the ID
// Named gives its name. The caller has a lock of that name, under which Get has not found it.
func (s *Store) AdoptAs(ctx context.Context, upper, name string) (Layer, error) {
	return s.adopt(ctx, upper, Named(name))
}

func (s *Store) adopt(ctx context.Context, upper, id string) (_ Layer, err error) {
	if err := ctx.Err(); err != nil {
		return Layer{}, context.Cause(ctx)
	}
	fi, err := os.Lstat(upper)
	if err != nil {
		return Layer{}, fmt.Errorf("adopting a layer: %w", err)
	}
	if !fi.IsDir() {
		return Layer{}, fmt.Errorf("adopting %s: it is not a directory: %w", upper, errdefs.ErrInvalidArgument)
	}
	scratch, err := statefile.NewScratch(s.tmp())
	if err != nil {
		return Layer{}, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	err = os.Rename(upper, filepath.Join(scratch.Path(), "diff"))
	if errors.Is(err, unix.EXDEV) {
		return Layer{}, fmt.Errorf("adopting %s: it is on another filesystem than %s: %w: %w", upper, s.dir, err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return Layer{}, fmt.Errorf("adopting a layer: %w", err)
	}
	return s.publish(scratch, &record{id: id})
}

// Remove deletes the layer id. An absent one is not an error. No mount may use it.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	remove, err := s.Expire(id, time.Now().Add(time.Hour)) // whenever it was used
	if err != nil || remove == nil {
		return err
	}
	if err := remove(); err != nil {
		return fmt.Errorf("removing the layer %s: %w", id, err)
	}
	return nil
}

// discard takes the layer's name away at once, and its files after that.
func (s *Store) discard(id string) error {
	_, remove, err := statefile.MoveAside(filepath.Join(s.dir, id), s.tmp())
	if err != nil {
		return ignoreMissing(err)
	}
	return remove()
}

// Sweep removes what processes that died have left behind, and layers that lost their records in
// a power loss. Layers in known are known to have theirs.
func (s *Store) Sweep(known map[string]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if checkID(e.Name()) != nil || known[e.Name()] {
			continue
		}
		if _, err := os.Lstat(s.record(e.Name())); errors.Is(err, fs.ErrNotExist) {
			if err := s.discard(e.Name()); err != nil {
				return err
			}
		}
	}
	return errors.Join(statefile.SweepScratch(s.tmp()), statefile.SweepLocks(s.tmp()))
}
