package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
)

// view opens the container's root filesystem as its image and its changes make it, for
// reading only. It works whether the container runs or not.
func view(sn snapshot.Snapshot) (*rootfs.Dir, error) {
	f, err := sn.View().Open()
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}

// fillVolume copies what the image has at target to an empty volume, with the directory's
// own mode and owner, as docker does.
func (e *Engine) fillVolume(store *cache.Store, c *Container, target, dir string) error {
	sn, err := store.Snapshots.Get(c.ID)
	if err != nil {
		return err
	}
	root, err := view(sn)
	if err != nil {
		return fmt.Errorf("reading the image for volume %s: %w", target, err)
	}
	defer root.Close()
	f, err := root.OpenFile(target, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if !c.UserIDs.copied() {
			return nil
		}
		uid, gid := c.UserIDs.outside(0, 0)
		return os.Chown(dir, uid, gid)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := rootfs.CopyTree(rootfs.FromFile(f), dir, rootfs.CopyOptions{}); err != nil {
		return fmt.Errorf("copying %s of the image to its volume: %w", target, err)
	}
	return nil
}
