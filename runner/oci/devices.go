package oci

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// makeDevices makes the device nodes and links of runtime-spec 1.3, config-linux.md,
// "Default Devices", and those of the spec. If /dev is a bind mount it is left alone: it
// is somebody else's directory.
func (c *compiler) makeDevices() error {
	dev, ok := c.devDir()
	if !ok {
		return nil
	}
	c.Note("making devices")
	for _, d := range append(defaultDevices(), c.spec.Linux.Devices...) {
		name, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
		if !ok || name == "" {
			return fmt.Errorf("device %s is not below /dev: %w", d.Path, errdefs.ErrInvalidArgument)
		}
		if name == "console" || name == "ptmx" { // made from the terminal and the link
			continue
		}
		if err := c.makeDevice(dev, name, d); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"},
	} {
		c.CallIf(ignore(unix.EEXIST), unix.SYS_SYMLINKAT, c.Str(l[0]), launch.Result(dev), c.Str(l[1]))
	}
	return nil
}

// devDir is the container's /dev: the filesystem mounted there, else a directory of the root.
func (c *compiler) devDir() (launch.Ref, bool) {
	for i := len(c.placed) - 1; i >= 0; i-- {
		if c.placed[i].dest == "/dev" {
			return c.placed[i].fd, !c.placed[i].bind
		}
	}
	c.Note("making /dev")
	there := c.openat2(ignore(unix.ENOENT), launch.Result(c.root), "dev", unix.O_PATH|unix.O_DIRECTORY, noLinks)
	c.TargetIf(launch.Cond{Unless: there}, launch.Result(c.root), "dev", unix.S_IFDIR|0o755)
	return c.openat2(launch.Cond{}, launch.Result(c.root), "dev", unix.O_PATH|unix.O_DIRECTORY, noLinks), true
}

func defaultDevices() []specs.LinuxDevice {
	mode := new(os.FileMode)
	*mode = 0o666
	return []specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: mode},
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: mode},
		{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, FileMode: mode},
		{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, FileMode: mode},
		{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9, FileMode: mode},
		{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0, FileMode: mode},
	}
}

// makeDevice makes a node in dev. A node of the spec with the name of a default one
// replaces it, and so does any node what the image has there.
func (c *compiler) makeDevice(dev launch.Ref, name string, d specs.LinuxDevice) error {
	var kind uint32
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		return fmt.Errorf("type %q: %w", d.Type, errdefs.ErrInvalidArgument)
	}
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(d.FileMode.Perm())
	}
	dir, base := dev, name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = c.Target(launch.Result(dev), name[:i], unix.S_IFDIR|0o755), name[i+1:]
	}
	c.CallIf(ignore(unix.ENOENT), unix.SYS_UNLINKAT, launch.Result(dir), c.Str(base), launch.Int(0))
	c.Call(unix.SYS_MKNODAT, launch.Result(dir), c.Str(base), launch.Int(kind|perm), launch.Int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if (d.UID != nil && *d.UID != 0) || (d.GID != nil && *d.GID != 0) {
		c.Call(unix.SYS_FCHOWNAT, launch.Result(dir), c.Str(base), launch.Int(deref(d.UID)), launch.Int(deref(d.GID)), launch.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	return nil
}

func deref(v *uint32) uint32 {
	if v == nil {
		return 0
	}
	return *v
}
