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
	for i, m := range c.spec.Mounts {
		if err := c.makeMount(i, m); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
	}
	return nil
}

// destination is where a mount goes; it may be relative since runtime-spec 1.2.
func destination(m specs.Mount) string { return path.Clean("/" + m.Destination) }

func (c *compiler) makeMount(i int, m specs.Mount) error {
	dest := destination(m)
	if (dest == "/" && !slices.Contains(m.Options, "remount")) || len(dest) >= unix.PathMax {
		return fmt.Errorf("destination is the root or too long: %w", errdefs.ErrInvalidArgument)
	}
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	for _, kind := range o.propagation {
		if err := checkPropagation(kind); err != nil {
			return err
		}
	}
	if o.remount {
		return c.remount(m, dest, o)
	}
	if err := c.checkProc(m, dest, o); err != nil {
		return err
	}
	switch {
	case o.isBind(m):
		return c.bind(i, m, dest, o)
	case idMapped(m) && m.Type != "overlay":
		return fmt.Errorf("id mappings of a mount that is no bind mount: %w", errdefs.ErrNotImplemented)
	}
	c.Note("mounting %s on %s", m.Type, dest)
	if m.Type == "cgroup" || m.Type == "cgroup2" {
		return c.mountCgroup(dest, o)
	}
	fd, err := c.newFilesystem(i, m, dest, o)
	if err != nil {
		return err
	}
	if m.Type == "tmpfs" && !o.copyUp && !o.sets("mode") {
		c.takeMode(fd, dest, o)
	}
	for _, kind := range o.propagation {
		if err := c.propagate(fd, kind); err != nil {
			return err
		}
	}
	mode := uint32(unix.S_IFDIR | 0o755)
	if c.opts.SubpathFiles[dest] {
		mode = unix.S_IFREG | 0o644
	}
	c.place(fd, dest, mode, !fixed(m.Type, dest))
	c.placed = append(c.placed, placed{dest: dest, fd: fd, bind: !ours(m.Type, dest)})
	return nil
}

// newFilesystem mounts what is no bind mount, without a place.
func (c *compiler) newFilesystem(i int, m specs.Mount, dest string, o mountOptions) (fd launch.Ref, err error) {
	switch {
	case m.Type == "":
		return 0, fmt.Errorf("no type: %w", errdefs.ErrInvalidArgument)
	case m.Type == "sysfs" && c.sources[i] != 0:
		return c.sources[i], nil
	case m.Type == "overlay":
		if fd = c.sources[i]; fd == 0 {
			fd, err = c.openSource(m, o)
		}
		return fd, err
	case o.copyUp:
		if _, ok := c.opts.Detached[dest]; !ok || m.Type != "tmpfs" {
			return 0, fmt.Errorf("tmpcopyup: %w", errdefs.ErrNotImplemented)
		}
		fd = c.detached(dest)
		c.attributes(fd, o)
		return fd, nil
	}
	data := o.data
	switch m.Type {
	case "proc", "sysfs", "mqueue": // the kernel's own, and what other mounts have in common
	default:
		data = c.labelled(data)
	}
	attrs := int(o.here.set | o.below.set)
	if c.lateReadOnly(m) {
		attrs &^= unix.MOUNT_ATTR_RDONLY
	}
	if m.Type == "tmpfs" && !o.sets("mode") {
		attrs = 0 // takeMode has to write to it
	}
	fd = c.filesystem(m.Type, source(m), attrs, data...)
	if m.Type == "mqueue" {
		c.labelRoot(fd)
	}
	return fd, nil
}

// takeMode gives a tmpfs without a mode that of the directory it will cover, as runc does:
// a /run of 0755 stays one.
func (c *compiler) takeMode(fd launch.Ref, dest string, o mountOptions) {
	dir, rest := c.base(dest)
	there := c.openat2(ignore(unix.ENOENT, unix.ENOTDIR, unix.ELOOP), launch.Result(dir), rest, unix.O_PATH|unix.O_DIRECTORY, inRoot)
	known := c.fstat(launch.Cond{}, there, c.stat)
	mode := c.Load(launch.Cond{When: known}, launch.Offset(c.stat, statMode), 4, 0o7777)
	top := c.CallIf(launch.Cond{When: known}, unix.SYS_OPENAT, launch.Result(fd), c.Str("."), launch.Int(unix.O_RDONLY|unix.O_DIRECTORY|cloexec), launch.Int(0))
	c.Call(unix.SYS_FCHMOD, launch.Result(top), launch.Result(mode))
	c.Call(unix.SYS_CLOSE, launch.Result(top))
	c.Call(unix.SYS_CLOSE, launch.Result(there))
	attrs := o.here.set | o.below.set
	if dest == "/dev" && c.newNamespace(specs.MountNamespace) {
		attrs &^= unix.MOUNT_ATTR_RDONLY // lateReadOnly
	}
	if attrs != 0 {
		c.setAttr(fd, 0, attr{set: attrs})
	}
}

// lateReadOnly says that a filesystem becomes read-only when everything is in it: /dev.
func (c *compiler) lateReadOnly(m specs.Mount) bool {
	o, err := parseOptions(m.Options)
	return err == nil && c.newNamespace(specs.MountNamespace) && destination(m) == "/dev" && !o.isBind(m) && !o.remount && (o.here.set|o.below.set)&unix.MOUNT_ATTR_RDONLY != 0
}

// detached is a mount that came as a file. The file stays, so that numbers do not change.
func (c *compiler) detached(dest string) launch.Ref {
	return c.Call(unix.SYS_FCNTL, launch.Int(c.opts.Detached[dest].Slot), launch.Int(unix.F_DUPFD_CLOEXEC), launch.Int(3))
}

// remount changes the attributes of what is mounted on dest already, and the options of
// its filesystem if any are given.
func (c *compiler) remount(m specs.Mount, dest string, o mountOptions) error {
	c.Note("changing the mount on %s", dest)
	dir, rest := c.base(dest)
	target := c.openat2(launch.Cond{}, launch.Result(dir), rest, unix.O_PATH, inRoot)
	c.settled[target] = true
	c.attributes(target, o)
	for _, kind := range o.propagation {
		if err := c.propagate(target, kind); err != nil {
			return err
		}
	}
	if len(o.data) > 0 && !o.isBind(m) {
		fs := c.Call(unix.SYS_FSPICK, launch.Result(target), c.Str(""), launch.Int(unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC))
		for _, d := range o.data {
			key, value, _ := strings.Cut(d, "=")
			c.configure1(fs, key, value)
		}
		c.Call(unix.SYS_FSCONFIG, launch.Result(fs), launch.Int(unix.FSCONFIG_CMD_RECONFIGURE), launch.Int(0), launch.Int(0), launch.Int(0))
		c.Call(unix.SYS_CLOSE, launch.Result(fs))
	}
	c.Call(unix.SYS_CLOSE, launch.Result(target))
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
		c.notInProc(target, dest)
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
func (c *compiler) bind(i int, m specs.Mount, dest string, o mountOptions) error {
	mode := uint32(unix.S_IFDIR | 0o755)
	fd := c.sources[i]
	if d, ok := c.opts.Detached[dest]; ok {
		c.Note("mounting file %d on %s", d.Slot, dest)
		if d.File {
			mode = unix.S_IFREG | 0o644
		}
		fd = c.detached(dest)
		c.attributes(fd, o)
	} else if _, ok := c.opts.Taken[dest]; ok {
		if fd == 0 {
			return fmt.Errorf("it is another container's, and this one has a user namespace: %w", errdefs.ErrNotImplemented)
		}
		c.Note("placing %s", dest)
		c.attributes(fd, o)
	} else {
		isDir, err := c.isDirectory(m.Source, c.opts.Subpaths[dest])
		if err != nil {
			return fmt.Errorf("source of the bind mount: %w", classify(err))
		}
		if !isDir {
			mode = unix.S_IFREG | 0o644
		}
		if fd == 0 {
			if fd, err = c.openSource(m, o); err != nil {
				return err
			}
		}
		c.Note("placing %s", dest)
	}
	kinds := o.propagation
	if len(kinds) == 0 {
		kinds = []string{"rprivate"}
	}
	for _, kind := range kinds {
		if err := c.propagate(fd, kind); err != nil {
			return err
		}
	}
	c.place(fd, dest, mode, true)
	c.placed = append(c.placed, placed{dest: dest, fd: fd, bind: true})
	return nil
}

// openSource opens a bind mount's source, or makes an overlay, as a mount without a place
// and with its attributes.
func (c *compiler) openSource(m specs.Mount, o mountOptions) (fd launch.Ref, err error) {
	if !o.isBind(m) {
		c.Note("mounting overlay for %s", destination(m))
		if fd, err = c.specOverlay(m, o); err != nil {
			return 0, err
		}
		if below := c.opts.Subpaths[destination(m)]; below != "" {
			if !c.kernelAtLeast(6, 15) { // open_tree(2) of a mount without a place
				return 0, fmt.Errorf("part of an image, on a kernel before 6.15: %w", errdefs.ErrNotImplemented)
			}
			fd = c.cloneBelow(fd, below, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		}
		c.attributes(fd, o)
		return fd, nil
	}
	c.Note("binding %s on %s", m.Source, destination(m))
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if o.recursive || m.Type == "rbind" {
		flags |= unix.AT_RECURSIVE
	}
	if below := c.opts.Subpaths[destination(m)]; below != "" {
		fd = c.bindBelow(m.Source, below, flags)
	} else {
		fd = c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(m.Source), launch.Int(flags))
	}
	if flags&unix.AT_RECURSIVE != 0 {
		if err := c.noteBelow(fd, path.Join(m.Source, c.opts.Subpaths[destination(m)])); err != nil {
			return 0, err
		}
	}
	c.attributes(fd, o)
	return fd, c.mapIDs(fd, m, o)
}

// isDirectory looks at a source, or at what is below it, as bindBelow finds it.
func (c *compiler) isDirectory(source, below string) (bool, error) {
	if below == "" {
		info, err := os.Stat(source)
		return err == nil && info.IsDir(), err
	}
	root, err := rootfs.Open(source)
	if err != nil {
		return false, err
	}
	defer root.Close()
	info, err := root.Stat(below)
	if err != nil {
		return false, fmt.Errorf("%s below %s: %w", below, source, err)
	}
	return info.IsDir(), nil
}

// bindBelow clones the mount of a path below source. It is looked up from a descriptor of
// source and never leads out, also if somebody exchanges parts of it meanwhile.
func (c *compiler) bindBelow(source, below string, flags int) launch.Ref {
	dir := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(source), launch.Int(unix.O_PATH|unix.O_DIRECTORY|cloexec), launch.Int(0))
	return c.cloneBelow(dir, below, flags)
}

// cloneBelow clones the mount of a path below dir, and closes dir.
func (c *compiler) cloneBelow(dir launch.Ref, below string, flags int) launch.Ref {
	const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	at := c.openat2(launch.Cond{}, launch.Result(dir), below, unix.O_PATH, beneath)
	fd := c.Call(unix.SYS_OPEN_TREE, launch.Result(at), c.Str(""), launch.Int(flags|unix.AT_EMPTY_PATH))
	c.Call(unix.SYS_CLOSE, launch.Result(at))
	c.Call(unix.SYS_CLOSE, launch.Result(dir))
	return fd
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
		c.setAttr(fd, unix.AT_RECURSIVE, o.below)
	}
	if o.here != (attr{}) {
		c.setAttr(fd, 0, o.here)
	}
}

// specOverlay is a mount of type overlay, whose directories are among its options.
func (c *compiler) specOverlay(m specs.Mount, o mountOptions) (launch.Ref, error) {
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
	if idMapped(m) {
		return c.mappedOverlay(v)
	}
	return c.overlay(v)
}
