package oci

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

const statIno = int(unsafe.Offsetof(unix.Stat_t{}.Ino))

// takeMounts opens the mounts that are taken from other containers.
func (c *compiler) takeMounts() {
	for i, m := range c.spec.Mounts {
		if t, ok := c.opts.Taken[destination(m)]; ok {
			c.sources[i] = c.takeMount(t, destination(m))
		}
	}
}

// takeMount copies a mount of another container. Linux copies only what is in the mount
// namespace of the caller, so the process goes there and comes back. It looks nothing up
// while it is there, and before that without leaving the container's root or following its
// links.
func (c *compiler) takeMount(t Taken, dest string) launch.Ref {
	c.Note("taking %s of process %d", dest, t.PID)
	open := func(dir launch.Arg, name string, flags int) launch.Ref {
		return c.Call(unix.SYS_OPENAT, dir, c.Str(name), launch.Int(flags|cloexec), launch.Int(0))
	}
	here := open(launch.Int(atFDCWD), "/proc/thread-self/ns/mnt", unix.O_RDONLY)
	top := open(launch.Int(atFDCWD), "/", unix.O_PATH|unix.O_DIRECTORY)
	process := open(launch.Int(atFDCWD), fmt.Sprintf("/proc/%d", t.PID), unix.O_PATH|unix.O_DIRECTORY)
	there := open(launch.Result(process), "ns/mnt", unix.O_RDONLY)
	c.expect(there, t.Namespace)
	root := open(launch.Result(process), "root", unix.O_PATH|unix.O_DIRECTORY)
	place := c.openat2(launch.Cond{}, launch.Result(root), strings.TrimPrefix(dest, "/"), unix.O_PATH|unix.O_DIRECTORY, noLinks)
	c.Call(unix.SYS_SETNS, launch.Result(there), launch.Int(unix.CLONE_NEWNS))
	fd := c.cloneMount(launch.Cond{}, place, 0)
	c.Call(unix.SYS_SETNS, launch.Result(here), launch.Int(unix.CLONE_NEWNS))
	c.Call(unix.SYS_FCHDIR, launch.Result(top)) // setns leads to the root of the namespace, which may be above ours
	c.Call(unix.SYS_CHROOT, c.Str("."))
	for _, used := range []launch.Ref{here, top, process, there, root, place} {
		c.Call(unix.SYS_CLOSE, launch.Result(used))
	}
	return fd
}
