package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/launch"
)

// attr is what mount_setattr(2) changes.
type attr struct{ set, clear, propagation uint64 }

// change is an attr for a mount without a place that the kernel can change only in one.
type change struct {
	attr
	recursive bool
}

// setAttr changes a mount; flags may have AT_RECURSIVE.
//
// Before Linux 5.12 a mount without a place cannot be changed. What is asked for is then
// done right after it has one (settle), before anything but the kernel's own filesystems,
// hooks or the container can look at it.
func (c *compiler) setAttr(fd launch.Ref, flags int, a attr) {
	if a.set&unix.MOUNT_ATTR__ATIME != 0 { // one of several values: mount_setattr(2) wants to be told
		a.clear |= unix.MOUNT_ATTR__ATIME
	}
	if c.canSetAttr(a) {
		c.setAttrIf(launch.Cond{}, fd, flags, a)
		return
	}
	ch := change{a, flags&unix.AT_RECURSIVE != 0}
	if c.settled[fd] {
		c.remountAttr(launch.Cond{}, fd, ch)
		return
	}
	c.waiting[fd] = append(c.waiting[fd], ch)
}

// setAttrIf is mount_setattr(2), which the kernel has.
func (c *compiler) setAttrIf(cond launch.Cond, fd launch.Ref, flags int, a attr) launch.Ref {
	b := slices.Concat(launch.Uint64(a.set), launch.Uint64(a.clear), launch.Uint64(a.propagation), launch.Uint64(0))
	return c.CallIf(cond, unix.SYS_MOUNT_SETATTR, launch.Result(fd), c.Str(""), launch.Int(unix.AT_EMPTY_PATH|flags), c.Bytes(b), launch.Int(len(b)))
}

// canSetAttr says that the kernel has mount_setattr(2), and knows the attributes.
func (c *compiler) canSetAttr(a attr) bool {
	return c.hasSetAttr && ((a.set|a.clear)&unix.MOUNT_ATTR_NOSYMFOLLOW == 0 || c.kernelAtLeast(5, 14))
}

// settle makes the changes that wait for fd's place, where moving it there succeeded.
func (c *compiler) settle(moved, fd launch.Ref) {
	c.settled[fd] = true
	for _, ch := range c.waiting[fd] {
		c.remountAttr(launch.Cond{When: moved}, fd, ch)
	}
}

// remountAttr changes a mount by mount(2), and those below it one by one.
func (c *compiler) remountAttr(cond launch.Cond, fd launch.Ref, ch change) {
	if ch.propagation != 0 {
		rec := uint64(0)
		if ch.recursive {
			rec = unix.MS_REC
		}
		c.Remount(cond, launch.Result(fd), 0, 0, ch.propagation|rec)
		return
	}
	set, clear := remountFlags(ch.set), remountFlags(ch.clear)
	if ch.clear&unix.MOUNT_ATTR__ATIME != 0 {
		clear |= unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
		if ch.set&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR_RELATIME {
			set |= unix.MS_RELATIME
		}
	}
	c.Remount(cond, launch.Result(fd), set, clear, 0)
	if !ch.recursive {
		return
	}
	for _, path := range c.below[fd] {
		m := c.openat2(cond, launch.Result(fd), path, unix.O_PATH, inRoot)
		c.Remount(cond, launch.Result(m), set, clear, 0)
		c.Call(unix.SYS_CLOSE, launch.Result(m))
	}
}

// remountFlags are the flags of mount(2) for attributes of mount_setattr(2).
func remountFlags(attrs uint64) uint64 {
	flags := attrs & (unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC) // MS_* are the same
	switch attrs & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		flags |= unix.MS_NOATIME
	case unix.MOUNT_ATTR_STRICTATIME:
		flags |= unix.MS_STRICTATIME
	}
	if attrs&unix.MOUNT_ATTR_NODIRATIME != 0 {
		flags |= unix.MS_NODIRATIME
	}
	if attrs&unix.MOUNT_ATTR_NOSYMFOLLOW != 0 {
		flags |= unix.MS_NOSYMFOLLOW
	}
	return flags
}

// noteBelow remembers what is mounted below dir on the host, of which fd becomes a copy with
// all that, as remountAttr has to find it. What is mounted later than now has not got what is
// asked for; newer kernels have no such gap.
func (c *compiler) noteBelow(fd launch.Ref, dir string) error {
	if c.canSetAttr(attr{set: unix.MOUNT_ATTR_NOSYMFOLLOW}) {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	c.below[fd] = mountsBelow(string(info), dir)
	return nil
}

// mountsBelow are the places of mounts below dir, relative to it, of proc_pid_mountinfo(5).
func mountsBelow(mountinfo, dir string) (list []string) {
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if path, ok := strings.CutPrefix(cgroup.Unescape(f[4]), strings.TrimSuffix(dir, "/")+"/"); ok && path != "" && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	return list
}

// madeBelow are the places below dir of the container where mounts of the spec are, relative to it.
func (c *compiler) madeBelow(dir string) (list []string) {
	for _, p := range append([]placed{{dest: "/", fd: c.root}}, c.placed...) {
		for _, at := range append([]string{"."}, c.below[p.fd]...) {
			if path, ok := strings.CutPrefix(filepath.Join(p.dest, at), strings.TrimSuffix(dir, "/")+"/"); ok {
				list = append(list, path)
			}
		}
	}
	return list
}
