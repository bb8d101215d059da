package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// The files of an ordinary user's containers with IDs of their own.
//
// Linux maps owners in a mount (mount_setattr(2), "ID-mapped mounts") for who has the right to
// administer its file system, which for that of a disk is the host's root alone, and overlayfs
// knows no such mounts. So the files of the image are copied with the owners they must have on disk:
// a layer of its own, flat, which all containers with the same image and IDs share and which goes
// when none is left, as other layers go.

// ownLayers are the layers and the lower directories of a container with IDs of its own, made of
// those of its image.
func (e *Engine) ownLayers(ctx context.Context, store *cache.Store, c *Container, layers, lowers []string) ([]string, []string, error) {
	if !c.UserIDs.copied() {
		return layers, lowers, nil
	}
	name, err := json.Marshal(struct {
		Layers []string
		IDs    *UserIDs
	}{layers, c.UserIDs})
	if err != nil {
		return nil, nil, err
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(e.Root, "owners.lock"), statefile.LockOptions{})
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	id := layer.Named(string(name))
	if found, err := store.Layers.Touch(id); err != nil {
		return nil, nil, err
	} else if !found {
		if err := e.copyWithOwners(ctx, store, c, lowers, string(name)); err != nil {
			return nil, nil, fmt.Errorf("copying the image with the owners of --userns %s: %w", c.Options.UsernsMode, err)
		}
	}
	lowers, err = store.Layers.Stack(ctx, []string{id})
	// The image's stay as long as the container does: commit puts what it has changed on them.
	return append(layers[:len(layers):len(layers)], id), lowers, err
}

// renewOwnLayers makes the copy that the container stands on again where it was lost when the machine went down; layers
// are the snapshot's.
func (e *Engine) renewOwnLayers(ctx context.Context, store *cache.Store, c *Container, layers []string) (err error) {
	if !c.UserIDs.copied() || len(layers) == 0 {
		return nil
	}
	unpin, err := store.Pin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	image := layers[:len(layers)-1]
	lowers, err := store.Layers.Stack(ctx, image)
	if err == nil {
		_, _, err = e.ownLayers(ctx, store, c, image, lowers)
	}
	return err
}

func (e *Engine) copyWithOwners(ctx context.Context, store *cache.Store, c *Container, lowers []string, name string) error {
	f, err := mount.View(lowers)
	if err != nil {
		return err
	}
	root := rootfs.FromFile(f)
	defer root.Close()
	to := filepath.Join(e.dir(c.ID), "files") // removed with the container, should we be killed
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	err = rootfs.CopyTree(root, to, rootfs.CopyOptions{Owner: func(uid, gid int) (int, int, error) {
		if err := ctx.Err(); err != nil {
			return 0, 0, context.Cause(ctx)
		}
		return c.UserIDs.given(uid, gid)
	}})
	if err == nil {
		_, err = store.Layers.AdoptAs(ctx, to, name)
	}
	return err
}

// given is outside for files, which cannot be given to somebody whom the container does not have.
func (u *UserIDs) given(uid, gid int) (int, int, error) {
	for _, has := range []struct {
		list []specs.LinuxIDMapping
		id   int
		what string
	}{{u.UIDs, uid, "user"}, {u.GIDs, gid, "group"}} {
		if _, ok := find(has.list, has.id); !ok {
			return 0, 0, worded(errdefs.ErrInvalidArgument, "a file belongs to the %s %d, whom the container does not have", has.what, has.id)
		}
	}
	uid, gid = u.outside(uid, gid)
	return uid, gid, nil
}

// largestID is the largest user or group that a file in the lower directories has.
func largestID(ctx context.Context, lowers []string) (largest uint32, err error) {
	for _, dir := range lowers {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, context.Cause(ctx))
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if st := info.Sys().(*syscall.Stat_t); st.Mode&unix.S_IFMT != unix.S_IFCHR { // a whiteout is nobody's
				largest = max(largest, st.Uid, st.Gid)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return largest, nil
}
