package oci

import (
	"fmt"
	"path"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// checkMapped says whether the root can be shown with the owners of the user namespace.
func (c *compiler) checkMapped() error {
	switch {
	case !c.rootfs.Mapped:
		return nil
	case !c.user || c.inside || c.rootfs.Path != "" || !c.newNamespace(specs.MountNamespace):
		return fmt.Errorf("a root with the owners of the user namespace: %w", errdefs.ErrInvalidArgument)
	case !c.kernelAtLeast(5, 19):
		return fmt.Errorf("a user namespace for the container takes ID-mapped mounts below overlayfs, which Linux has since 5.19; "+
			"run it in the host's (--userns host): %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// rootOverlay mounts the overlay that is the root.
func (c *compiler) rootOverlay() (launch.Ref, error) {
	if c.rootfs.Mapped {
		return c.mappedOverlay(c.rootfs.Overlay)
	}
	return c.overlay(c.rootfs.Overlay)
}

// mappedOverlay mounts o with its files given to the owners of the container's user
// namespace. Overlayfs finds its layers by paths, so each is covered by itself, mapped, in
// the mount namespace that is not the host's any more; mount_setattr(2), "ID-mapped mounts".
// Upper and work directory have to be on one mount: that of the directory they are in.
//
// Overlayfs makes whiteouts and what is in the work directory as who mounted it. That must
// be a user whom the mounts can map back: root of the user namespace, with our capabilities.
func (c *compiler) mappedOverlay(o mount.Overlay) (launch.Ref, error) {
	if c.inside || !c.newNamespace(specs.MountNamespace) || !c.user {
		return 0, fmt.Errorf("overlay with the owners of a user namespace: %w", errdefs.ErrInvalidArgument)
	}
	ns := c.namespaceOfUser()
	dirs := o.Lowers
	if o.Upper != "" {
		if path.Dir(o.Upper) != path.Dir(o.Work) {
			return 0, fmt.Errorf("upper and work directory of %s are not in one directory: %w", o.Upper, errdefs.ErrInvalidArgument)
		}
		dirs = append(dirs[:len(dirs):len(dirs)], path.Dir(o.Upper))
	}
	for _, dir := range dirs {
		if c.covered[dir] {
			continue
		}
		c.covered[dir] = true
		c.noteMapping(dir)
		tree := c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(dir), launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
		c.mapTree(tree, ns, 0)
		c.moveMount(tree, launch.Int(atFDCWD), dir)
		c.Call(unix.SYS_CLOSE, launch.Result(tree))
	}
	uid, gid, err := c.hostRoot()
	if err != nil {
		return 0, err
	}
	c.Note("becoming root of the user namespace for its files")
	before := c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_GET_SECUREBITS), launch.Int(0), launch.Int(0), launch.Int(0), launch.Int(0))
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_SECUREBITS), launch.Int(noSetuidFixup), launch.Int(0), launch.Int(0), launch.Int(0))
	c.Call(unix.SYS_SETFSGID, launch.Int(gid))
	c.Call(unix.SYS_SETFSUID, launch.Int(uid))
	fd, err := c.overlay(o)
	c.Call(unix.SYS_SETFSUID, launch.Int(0))
	c.Call(unix.SYS_SETFSGID, launch.Int(0))
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_SECUREBITS), launch.Result(before), launch.Int(0), launch.Int(0), launch.Int(0))
	return fd, err
}

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP: capabilities stay when the user changes;
// capabilities(7).
const noSetuidFixup = 1 << 2

// namespaceOfUser is a descriptor of the container's user namespace, made, found or given.
func (c *compiler) namespaceOfUser() launch.Ref {
	if c.newNamespace(specs.UserNamespace) {
		return c.userNamespace()
	}
	return c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(c.userPath()), launch.Int(unix.O_RDONLY|cloexec), launch.Int(0))
}

// noteMapping says what fails where a file system knows no ID-mapped mounts.
func (c *compiler) noteMapping(dir string) {
	c.Note("mapping the owners in %s (it takes a file system with ID-mapped mounts, or --userns host)", dir)
}

// mapTree maps the owners of a mount without a place.
func (c *compiler) mapTree(fd, ns launch.Ref, flags int) {
	const size = int(unsafe.Sizeof(unix.MountAttr{}))
	attr := c.Bytes(append(launch.Uint64(unix.MOUNT_ATTR_IDMAP), make([]byte, size-8)...))
	c.Store(launch.Offset(attr, int(unsafe.Offsetof(unix.MountAttr{}.Userns_fd))), launch.Result(ns), 8)
	c.Call(unix.SYS_MOUNT_SETATTR, launch.Result(fd), c.Str(""), launch.Int(unix.AT_EMPTY_PATH|flags), attr, launch.Int(size))
}

// hostRoot is the container's root outside.
func (c *compiler) hostRoot() (uid, gid uint32, err error) {
	one := specs.LinuxIDMapping{Size: 1}
	if uid, err = outside(one, c.spec.Linux.UIDMappings); err == nil {
		gid, err = outside(one, c.spec.Linux.GIDMappings)
	}
	return uid, gid, err
}

// mountSysfs mounts the container's sysfs in its network before its user namespace is
// entered, if the network may not belong to that: the kernel would refuse it there.
func (c *compiler) mountSysfs() error {
	if c.newNamespace(specs.NetworkNamespace) || c.opts.UserOfNetwork {
		return nil
	}
	for i, m := range c.spec.Mounts {
		if m.Type != "sysfs" {
			continue
		}
		o, err := parseOptions(m.Options)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
		c.Note("mounting sysfs for %s", destination(m))
		c.sources[i] = c.filesystem(m.Type, source(m), int(o.here.set|o.below.set), o.data...)
	}
	return nil
}
