package oci

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/launch"
)

// makeMounts places the mounts of the spec in their order.
func (c *compiler) makeMounts() error {
	for _, m := range c.spec.Mounts {
		if err := c.makeMount(m); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
	}
	return nil
}

func (c *compiler) makeMount(m specs.Mount) error {
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return fmt.Errorf("id mappings: %w", errdefs.ErrNotImplemented)
	}
	dest := path.Clean("/" + m.Destination) // may be relative since runtime-spec 1.2
	if dest == "/" || len(dest) >= unix.PathMax {
		return fmt.Errorf("destination is the root or too long: %w", errdefs.ErrInvalidArgument)
	}
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	if o.bind || m.Type == "bind" {
		return c.bind(m, dest, o)
	}
	c.Note("mounting %s on %s", m.Type, dest)
	if m.Type == "cgroup" || m.Type == "cgroup2" {
		return c.mountCgroup(dest, o)
	}
	var fd launch.Ref
	if m.Type == "overlay" {
		if fd, err = c.specOverlay(o); err != nil {
			return err
		}
		c.attributes(fd, o)
	} else {
		if m.Type == "" {
			return fmt.Errorf("no type: %w", errdefs.ErrInvalidArgument)
		}
		fd = c.filesystem(m.Type, source(m), int(o.here.set|o.below.set), o.data...)
	}
	if o.propagation != "" {
		if err := c.propagate(fd, o.propagation); err != nil {
			return err
		}
	}
	c.place(fd, dest, unix.S_IFDIR|0o755, !fixed(m.Type, dest))
	c.placed = append(c.placed, placed{dest: dest, fd: fd, bind: !ours(m.Type, dest)})
	return nil
}

// source is the source of a filesystem as /proc/mounts shows it.
func source(m specs.Mount) string {
	if m.Source == "" {
		return m.Type
	}
	return m.Source
}

// fixed says that links on the way to dest are refused instead of followed: what an image
// puts in the place of /proc must not decide where the kernel's files appear
// (CVE-2019-19921, CVE-2023-27561).
func fixed(kind, dest string) bool {
	switch kind {
	case "proc", "sysfs", "devpts", "mqueue":
		return true
	}
	return dest == "/dev"
}

// ours says that a filesystem has only what we or the kernel put into it.
func ours(kind, dest string) bool { return fixed(kind, dest) }

// base finds the descriptor from which dest is best looked up: a filesystem of ours, or
// the root.
func (c *compiler) base(dest string) (dir launch.Ref, rest string) {
	for _, p := range slices.Backward(c.placed) {
		if dest == p.dest || strings.HasPrefix(dest, p.dest+"/") {
			if p.bind {
				break
			}
			return p.fd, strings.TrimPrefix(strings.TrimPrefix(dest, p.dest), "/")
		}
	}
	return c.root, strings.TrimPrefix(dest, "/")
}

// place moves a mount to dest, which is made if it is missing. The root itself is never
// covered, not even by links that lead to it: what is under the cover would stay reachable.
func (c *compiler) place(fd launch.Ref, dest string, mode uint32, follow bool) {
	dir, rest := c.base(dest)
	var target launch.Ref
	if follow {
		target = c.Target(launch.Result(dir), rest, mode)
	} else {
		flags := uint64(unix.O_PATH | unix.O_DIRECTORY)
		there := c.openat2(ignore(unix.ENOENT), launch.Result(dir), rest, flags, noLinks)
		c.TargetIf(launch.Cond{Unless: there}, launch.Result(dir), rest, mode)
		target = c.openat2(launch.Cond{}, launch.Result(dir), rest, flags, noLinks)
	}
	c.fstat(launch.Cond{}, target, c.stat)
	c.Differ(launch.Cond{}, c.stat, c.self, sameFile, unix.ELOOP)
	c.moveMount(fd, launch.Result(target), "")
	c.Call(unix.SYS_CLOSE, launch.Result(target))
}

// bind makes a bind mount of a path of the host, or places one that came as a file.
func (c *compiler) bind(m specs.Mount, dest string, o mountOptions) error {
	mode := uint32(unix.S_IFDIR | 0o755)
	var fd launch.Ref
	if d, ok := c.opts.Detached[dest]; ok {
		c.Note("mounting file %d on %s", d.Slot, dest)
		if d.File {
			mode = unix.S_IFREG | 0o644
		}
		fd = c.Call(unix.SYS_FCNTL, launch.Int(d.Slot), launch.Int(unix.F_DUPFD_CLOEXEC), launch.Int(3))
	} else {
		c.Note("binding %s on %s", m.Source, dest)
		info, err := os.Stat(m.Source)
		if err != nil {
			return fmt.Errorf("source of the bind mount: %w", classify(err))
		}
		isDir := info.IsDir()
		flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
		if o.recursive {
			flags |= unix.AT_RECURSIVE
		}
		if below := c.opts.Subpaths[dest]; below != "" {
			if fd, isDir, err = c.bindBelow(m.Source, below, flags); err != nil {
				return err
			}
		} else if early, ok := c.shared[dest]; ok {
			fd = early
		} else {
			fd = c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(m.Source), launch.Int(flags))
		}
		if !isDir {
			mode = unix.S_IFREG | 0o644
		}
	}
	c.attributes(fd, o)
	if err := c.propagate(fd, o.propagation); err != nil {
		return err
	}
	c.place(fd, dest, mode, true)
	c.placed = append(c.placed, placed{dest: dest, fd: fd, bind: true})
	return nil
}

// bindBelow clones the mount of a path below source. It is looked up from a descriptor of
// source and never leads out, also if somebody exchanges parts of it meanwhile.
func (c *compiler) bindBelow(source, below string, flags int) (fd launch.Ref, isDir bool, err error) {
	root, err := rootfs.Open(source)
	if err != nil {
		return 0, false, fmt.Errorf("source of the bind mount: %w", classify(err))
	}
	defer root.Close()
	info, err := root.Stat(below)
	if err != nil {
		return 0, false, fmt.Errorf("%s below %s: %w", below, source, classify(err))
	}
	dir := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(source), launch.Int(unix.O_PATH|unix.O_DIRECTORY|cloexec), launch.Int(0))
	const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	at := c.openat2(launch.Cond{}, launch.Result(dir), below, unix.O_PATH, beneath)
	fd = c.Call(unix.SYS_OPEN_TREE, launch.Result(at), c.Str(""), launch.Int(flags|unix.AT_EMPTY_PATH))
	c.Call(unix.SYS_CLOSE, launch.Result(at))
	c.Call(unix.SYS_CLOSE, launch.Result(dir))
	return fd, info.IsDir(), nil
}

// openShared clones the sources of binds that are shared with the host, before the mount
// namespace is cut off: later they would only follow the host, not be followed.
func (c *compiler) openShared() error {
	for _, m := range c.spec.Mounts {
		o, err := parseOptions(m.Options)
		if err != nil {
			return err
		}
		dest := path.Clean("/" + m.Destination)
		if _, detached := c.opts.Detached[dest]; detached || !o.bind && m.Type != "bind" || c.opts.Subpaths[dest] != "" {
			continue
		}
		if o.propagation != "shared" && o.propagation != "rshared" {
			continue
		}
		flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
		if o.recursive {
			flags |= unix.AT_RECURSIVE
		}
		if c.shared == nil {
			c.shared = map[string]launch.Ref{}
		}
		c.Note("binding %s, shared with the host", m.Source)
		c.shared[dest] = c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(m.Source), launch.Int(flags))
	}
	return nil
}

func classify(err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// attributes sets the attributes of a mount, first those for the mounts below too.
func (c *compiler) attributes(fd launch.Ref, o mountOptions) {
	if o.below != (attr{}) {
		c.setAttr(launch.Cond{}, fd, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.below)
	}
	if o.here != (attr{}) {
		c.setAttr(launch.Cond{}, fd, unix.AT_EMPTY_PATH, o.here)
	}
}

// specOverlay is a mount of type overlay, whose directories are among its options.
func (c *compiler) specOverlay(o mountOptions) (launch.Ref, error) {
	var v mount.Overlay
	for _, opt := range o.data {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir":
			v.Lowers = strings.Split(value, ":")
		case "upperdir":
			v.Upper = value
		case "workdir":
			v.Work = value
		case "volatile":
			v.Volatile = true
		case "userxattr":
			v.UserXattr = true
		case "index", "xino", "metacopy", "redirect_dir": // ours to decide
		default:
			return 0, fmt.Errorf("overlay option %s: %w", key, errdefs.ErrInvalidArgument)
		}
	}
	return c.overlay(v)
}
