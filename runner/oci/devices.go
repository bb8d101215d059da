package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/userns"
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
	bound := c.user || userns.Inside() // where no node can be made
	for _, d := range c.allDevices() {
		clean := path.Clean(d.Path)
		dir, name := dev, strings.TrimPrefix(clean, "/dev/")
		if name == clean {
			if !path.IsAbs(clean) || clean == "/" {
				return fmt.Errorf("path of the device %s: %w", d.Path, errdefs.ErrInvalidArgument)
			}
			dir, name = c.base(clean)
		}
		if err := c.makeDevice(dir, name, d, bound); err != nil {
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

// allDevices are the default devices and those of the spec, except those that are made
// from the terminal and a link.
func (c *compiler) allDevices() []specs.LinuxDevice {
	seen := map[string]bool{"/dev/console": c.process.Terminal, "/dev/ptmx": true}
	var all []specs.LinuxDevice
	for _, d := range slices.Backward(append(defaultDevices(), c.spec.Linux.Devices...)) { // the last of a name counts
		if name := path.Clean(d.Path); !seen[name] {
			seen[name] = true
			all = append(all, d)
		}
	}
	slices.Reverse(all)
	return all
}

// openNode opens the host's device of the same numbers as a mount.
func (c *compiler) openNode(d specs.LinuxDevice) launch.Ref {
	c.Note("opening the device %s", d.Path)
	node := c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(hostNode(d)), launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
	c.setAttr(node, 0, hostsNode())
	return node
}

// hostNode is a path of the device on the host: mostly the one it has in the container.
func hostNode(d specs.LinuxDevice) string {
	dir, kind := "/dev/char", uint32(unix.S_IFCHR)
	if d.Type == "b" {
		dir, kind = "/dev/block", unix.S_IFBLK
	}
	is := func(file string) bool {
		var st unix.Stat_t
		return unix.Stat(file, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	for _, file := range []string{d.Path, fmt.Sprintf("%s/%d:%d", dir, d.Major, d.Minor)} {
		if is(file) {
			return file
		}
	}
	found := d.Path // if there is none it is missed when the container starts
	filepath.WalkDir("/dev", func(file string, e fs.DirEntry, err error) error {
		if file != "/dev" && err == nil && e.IsDir() && mountRoot(file) {
			return fs.SkipDir // /dev/shm may hold anything
		}
		if err == nil && e.Type()&fs.ModeDevice != 0 && is(file) {
			found = file
			return fs.SkipAll
		}
		return nil
	})
	return found
}

// mountRoot says whether something is mounted on a directory; statx(2).
func mountRoot(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
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

// makeDevice makes a node below dev. One of the spec with the name of a default one replaces
// it. A default one replaces what the image has there; for others that has to be the same
// device (config-linux.md, "Devices"). Where nodes cannot be made the host's is bound.
func (c *compiler) makeDevice(dev launch.Ref, name string, d specs.LinuxDevice, bound bool) error {
	var kind uint32
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind, bound = unix.S_IFIFO, false
	default:
		return fmt.Errorf("type %q: %w", d.Type, errdefs.ErrInvalidArgument)
	}
	if d.Type != "p" && (uint64(d.Major) >= 1<<12 || uint64(d.Minor) >= 1<<20) { // the kernel would make another; linux/kdev_t.h
		return fmt.Errorf("number %d:%d: %w", d.Major, d.Minor, errdefs.ErrInvalidArgument)
	}
	if bound {
		node := c.nodes[d.Path]
		if node == 0 {
			node = c.openNode(d)
		}
		target := c.Target(launch.Result(dev), name, unix.S_IFREG|0o644)
		c.moveMount(node, launch.Result(target), "")
		c.Call(unix.SYS_CLOSE, launch.Result(target))
		return nil
	}
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(d.FileMode.Perm())
	}
	dir, base := dev, name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = c.Target(launch.Result(dev), name[:i], unix.S_IFDIR|0o755), name[i+1:]
	}
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	if c.isDefault(d) {
		c.CallIf(ignore(unix.ENOENT), unix.SYS_UNLINKAT, launch.Result(dir), c.Str(base), launch.Int(0))
	}
	made := c.CallIf(ignore(unix.EEXIST), unix.SYS_MKNODAT, launch.Result(dir), c.Str(base), launch.Int(kind|perm), launch.Int(number))
	there := c.CallIf(launch.Cond{Unless: made}, unix.SYS_OPENAT, launch.Result(dir), c.Str(base), launch.Int(unix.O_PATH|unix.O_NOFOLLOW|cloexec), launch.Int(0))
	known := c.fstat(launch.Cond{When: there}, there, c.stat)
	c.checkMode(launch.Cond{When: known}, uint64(kind), unix.EEXIST)
	if kind != unix.S_IFIFO {
		c.Check(launch.Cond{When: known}, launch.Offset(c.stat, statRdev), 8, ^uint64(0), number, unix.EEXIST)
	}
	c.CallIf(launch.Cond{When: there}, unix.SYS_CLOSE, launch.Result(there))
	if (d.UID != nil && *d.UID != 0) || (d.GID != nil && *d.GID != 0) {
		c.CallIf(launch.Cond{When: made}, unix.SYS_FCHOWNAT, launch.Result(dir), c.Str(base), launch.Int(deref(d.UID)), launch.Int(deref(d.GID)), launch.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	return nil
}

// isDefault says that nobody asked for a device of this path.
func (c *compiler) isDefault(d specs.LinuxDevice) bool {
	return !slices.ContainsFunc(c.spec.Linux.Devices, func(s specs.LinuxDevice) bool { return path.Clean(s.Path) == path.Clean(d.Path) })
}

func deref(v *uint32) uint32 {
	if v == nil {
		return 0
	}
	return *v
}
