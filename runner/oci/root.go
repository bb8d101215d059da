package oci

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// makeRoot cuts the mount namespace off the host's, and mounts the root over the present
// one: lookups of absolute paths begin below it, so the host's paths keep working until
// enterRoot, and no directory is needed to mount on.
func (c *compiler) makeRoot(r Rootfs) error {
	if err := c.openShared(); err != nil {
		return err
	}
	c.Note("separating the mount namespace")
	// Slave and not private: what the host unmounts later goes away here too.
	c.Call(unix.SYS_MOUNT, c.Str(""), c.Str("/"), c.Str(""), launch.Int(unix.MS_REC|unix.MS_SLAVE), launch.Int(0))
	c.openNull()
	if r.Path != "" {
		c.Note("opening the root %s", r.Path)
		c.root = c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(r.Path),
			launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE))
	} else {
		var err error
		if c.root, err = c.overlay(r.Overlay); err != nil {
			return err
		}
	}
	c.Note("placing the root")
	if err := c.propagate(c.root, c.spec.Linux.RootfsPropagation); err != nil {
		return err
	}
	c.moveMount(c.root, launch.Int(atFDCWD), "/")
	c.fstat(launch.Cond{}, c.root, c.self)
	return nil
}

// openNull holds the host's /dev/null, which will cover what is masked, and makes sure it
// is what its name says (CVE-2025-31133).
func (c *compiler) openNull() {
	c.Note("opening the null device")
	c.null = c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str("/dev/null"), launch.Int(unix.O_PATH|unix.O_NOFOLLOW|cloexec), launch.Int(0))
	c.fstat(launch.Cond{}, c.null, c.stat)
	c.checkMode(launch.Cond{}, unix.S_IFCHR, unix.ENODEV)
	c.Check(launch.Cond{}, launch.Offset(c.stat, statRdev), 8, ^uint64(0), unix.Mkdev(1, 3), unix.ENODEV)
}

// propagate sets the propagation type of a mount and those below; "" is private.
func (c *compiler) propagate(fd launch.Ref, kind string) error {
	v := uint64(unix.MS_PRIVATE)
	switch kind {
	case "", "private", "rprivate":
	case "slave", "rslave":
		v = unix.MS_SLAVE
	case "shared", "rshared":
		v = unix.MS_SHARED
	case "unbindable", "runbindable":
		v = unix.MS_UNBINDABLE
	default:
		return fmt.Errorf("propagation %q: %w", kind, errdefs.ErrInvalidArgument)
	}
	flags := unix.AT_EMPTY_PATH
	if kind == "" || strings.HasPrefix(kind, "r") {
		flags |= unix.AT_RECURSIVE
	}
	c.setAttr(launch.Cond{}, fd, flags, attr{propagation: v})
	return nil
}
