package oci

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// separate cuts the mount namespace off the host's. Slave and not private: what the host
// unmounts later goes away here too.
func (c *compiler) separate() {
	c.Note("separating the mount namespace")
	c.Call(unix.SYS_MOUNT, c.Str(""), c.Str("/"), c.Str(""), launch.Int(unix.MS_REC|unix.MS_SLAVE), launch.Int(0))
}

// makeRoot mounts the root over the present one: lookups of absolute paths begin below it,
// so the host's paths keep working until enterRoot, and no directory is needed to mount
// on. Only hooks that are to find the root where the bundle has it get it there. Without a
// mount namespace the root stays without a place, so that nobody else sees its mounts.
func (c *compiler) makeRoot() error {
	own := c.newNamespace(specs.MountNamespace)
	if own && (!c.user || c.inside) {
		c.separate()
	}
	c.openNull()
	if c.root == 0 {
		if err := c.openRoot(); err != nil {
			return err
		}
	}
	c.Note("placing the root")
	if err := checkPropagation(c.spec.Linux.RootfsPropagation); err != nil {
		return err
	}
	apart := "rprivate"
	if strings.TrimPrefix(c.spec.Linux.RootfsPropagation, "r") == "slave" {
		apart = "rslave" // of the host's, if that is shared
	}
	if err := c.propagate(c.root, apart); err != nil {
		return err
	}
	at := cmp.Or(c.rootfs.Path, c.opts.HooksRoot)
	switch {
	case own && at != "" && c.hooked():
		// Root of a user namespace may not be able to get there.
		place := c.CallIf(ignore(unix.EACCES), unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(at), launch.Int(unix.O_PATH|unix.O_DIRECTORY|cloexec), launch.Int(0))
		c.moveMount(c.root, launch.Result(place), "")
		c.moveMountIf(launch.Cond{Unless: place}, c.root, launch.Int(atFDCWD), "/")
		c.Call(unix.SYS_CLOSE, launch.Result(place))
	case own:
		c.moveMount(c.root, launch.Int(atFDCWD), "/")
	}
	c.fstat(launch.Cond{}, c.root, c.self)
	return nil
}

// hooked says that hooks run before the root is entered, in its mount namespace or entering
// it, as those of NVIDIA do.
func (c *compiler) hooked() bool {
	h := c.spec.Hooks
	//lint:ignore SA1019 such hooks are still in use
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

// openRoot makes the root, without a place.
func (c *compiler) openRoot() (err error) {
	if c.rootfs.Path == "" {
		c.root, err = c.rootOverlay()
		return err
	}
	c.Note("opening the root %s", c.rootfs.Path)
	c.root = c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(c.rootfs.Path),
		launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE))
	return c.noteBelow(c.root, c.rootfs.Path)
}

// openNull holds the host's /dev/null, which will cover what is masked, and makes sure it
// is what its name says (CVE-2025-31133).
func (c *compiler) openNull() {
	c.Note("opening the null device")
	c.null = c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str("/dev/null"), launch.Int(unix.O_PATH|unix.O_NOFOLLOW|cloexec), launch.Int(0))
	c.fstat(launch.Cond{}, c.null, c.stat)
	c.checkMode(launch.Cond{}, unix.S_IFCHR, unix.ENODEV)
	c.Check(launch.Cond{}, launch.Offset(c.stat, statRdev), 8, ^uint64(0), unix.Mkdev(1, 3), unix.ENODEV)
	if !c.hasSetAttr && c.newNamespace(specs.MountNamespace) {
		ro := c.cloneMount(launch.Cond{}, c.null, 0)
		c.setAttr(ro, 0, hostsNode())
		c.moveMount(ro, launch.Int(atFDCWD), "/dev/null")
		c.null = ro
	}
}

// propagationFlags are the flags of mount(2) for a propagation type, which is recursive if its
// name begins with r.
func propagationFlags(kind string) (uint64, error) {
	name, recursive := strings.CutPrefix(kind, "r")
	rec := uint64(0)
	if recursive {
		rec = unix.MS_REC
	}
	switch name {
	case "private":
		return unix.MS_PRIVATE | rec, nil
	case "slave":
		return unix.MS_SLAVE | rec, nil
	case "shared":
		return unix.MS_SHARED | rec, nil
	case "unbindable":
		return unix.MS_UNBINDABLE | rec, nil
	}
	return 0, fmt.Errorf("propagation %q: %w", kind, errdefs.ErrInvalidArgument)
}

func checkPropagation(kind string) error {
	if kind == "" {
		return nil
	}
	_, err := propagationFlags(kind)
	return err
}

// propagate sets the propagation type of a mount, and of those below if it is recursive.
func (c *compiler) propagate(fd launch.Ref, kind string) error {
	v, err := propagationFlags(kind)
	if err != nil {
		return err
	}
	flags := 0
	if v&unix.MS_REC != 0 {
		flags = unix.AT_RECURSIVE
	}
	c.setAttr(fd, flags, attr{propagation: v &^ unix.MS_REC})
	return nil
}
