package oci

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// namespaceFlag is the clone flag of a kind of namespace, 0 if unknown.
func namespaceFlag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	}
	return 0
}

// checkNamespaces sees that each kind is known and named once.
func checkNamespaces(s *specs.Spec) error {
	var seen uint64
	for _, ns := range s.Linux.Namespaces {
		f := namespaceFlag(ns.Type)
		if f == 0 || seen&f != 0 {
			return fmt.Errorf("namespace %q is unknown or twice: %w", ns.Type, errdefs.ErrInvalidArgument)
		}
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			return fmt.Errorf("path %q of the %s namespace is not absolute: %w", ns.Path, ns.Type, errdefs.ErrInvalidArgument)
		}
		seen |= f
	}
	return nil
}

// newFlags are the clone flags of the namespaces the container gets for itself, without
// those that are made in another way: user and time.
func (c *compiler) newFlags() (flags uint64) {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Path == "" && ns.Type != specs.UserNamespace && ns.Type != specs.TimeNamespace {
			flags |= namespaceFlag(ns.Type)
		}
	}
	return flags
}

// forks says that the first process only leads to the one that becomes the container's: a
// PID or time namespace that is entered holds for children only, and namespaces belong to
// the user namespace in which they were made. Who maps ids of mounts needs the host's PID
// namespace until then.
func (c *compiler) forks() bool {
	return c.user || c.mapped || c.newNamespace(specs.TimeNamespace) || (c.ownNamespace(specs.PIDNamespace) && !c.newNamespace(specs.PIDNamespace))
}

// cloneFlags are the namespaces the first process is made with. The cgroup namespace is
// not among them: its root is the cgroup at the time it is made, so cgroups are joined
// first. Who forks again has a mount namespace already, in which mounts are prepared.
func (c *compiler) cloneFlags() uint64 {
	switch {
	case !c.forks():
		return c.newFlags() &^ unix.CLONE_NEWCGROUP
	case c.inside:
		return 0
	}
	return c.newFlags() & unix.CLONE_NEWNS
}

// newNamespace says that the container has a namespace of this kind for itself.
func (c *compiler) newNamespace(t specs.LinuxNamespaceType) bool {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == t {
			return ns.Path == ""
		}
	}
	return false
}

// ownNamespace says that the container's namespace of this kind is not the host's.
func (c *compiler) ownNamespace(t specs.LinuxNamespaceType) bool {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == t {
			return true
		}
	}
	return false
}

// mayChange says that the container's namespace of this kind is not the one we are in
// ourselves, also if that is what a path leads to: its names, sysctls and control groups are
// not the host's.
func (c *compiler) mayChange(t specs.LinuxNamespaceType) bool {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == t {
			return ns.Path == "" || !isOurs(ns)
		}
	}
	return false
}

// isOurs says that a path leads to the namespace of this thread. One that leads nowhere is an
// error later. /proc/self would be the main thread, which may be one that has gone into the
// container's namespace: whoever made that for us may have been on it.
func isOurs(ns specs.LinuxNamespace) bool {
	there, err := os.Stat(ns.Path)
	if err != nil {
		return false
	}
	name := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup"}[ns.Type]
	here, err := os.Stat("/proc/thread-self/ns/" + name)
	return err != nil || os.SameFile(there, here)
}

// joinNamespaces enters the namespaces given by path and makes the others that are still
// missing. All that are given are opened before the first is entered. What belongs to the
// host's user namespace is entered before the container's, in which we have no power over
// it, and the PID namespace, which holds for children only, last.
func (c *compiler) joinNamespaces() error {
	given := map[specs.LinuxNamespaceType]launch.Ref{}
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Path == "" || (ns.Type == specs.UserNamespace && !c.user) {
			continue
		}
		c.Note("opening the %s namespace %s", ns.Type, ns.Path)
		given[ns.Type] = c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(ns.Path), launch.Int(unix.O_RDONLY|cloexec), launch.Int(0))
		if inode, ok := c.opts.Expected[ns.Path]; ok {
			c.expect(given[ns.Type], inode)
		}
	}
	if c.inside {
		c.enterUser(given[specs.UserNamespace])
	}
	for _, ns := range c.spec.Linux.Namespaces {
		fd := given[ns.Type]
		if fd == 0 || ns.Type == specs.UserNamespace {
			continue
		}
		if ns.Type == specs.MountNamespace { // entered with the root
			c.mounts = fd
			continue
		}
		c.Note("joining the %s namespace %s", ns.Type, ns.Path)
		c.Call(unix.SYS_SETNS, launch.Result(fd), launch.Int(namespaceFlag(ns.Type)))
	}
	if c.newNamespace(specs.TimeNamespace) {
		c.makeTime()
	}
	if c.user && !c.inside {
		if err := c.mountSysfs(); err != nil {
			return err
		}
		c.enterUser(given[specs.UserNamespace])
	}
	if c.forks() {
		c.Note("starting the process in its namespaces")
		made := c.cloneFlags()
		if c.user {
			made = 0 // its mount namespace has to belong to the user namespace
		}
		c.Fork(c.newFlags() &^ made)
		c.hide()
		c.Call(unix.SYS_SETSID)
	} else if c.newNamespace(specs.CgroupNamespace) {
		c.Note("making the cgroup namespace")
		c.Call(unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWCGROUP))
	}
	return nil
}

// expect makes sure that a namespace is the one meant.
func (c *compiler) expect(namespace launch.Ref, inode uint64) {
	c.fstat(launch.Cond{}, namespace, c.stat)
	c.Check(launch.Cond{}, launch.Offset(c.stat, statIno), 8, ^uint64(0), inode, unix.ESRCH)
}

// makeTime makes a time namespace for the children; time_namespaces(7).
func (c *compiler) makeTime() {
	c.Note("making the time namespace")
	c.Call(unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWTIME))
	var text strings.Builder
	for _, clock := range slices.Sorted(maps.Keys(c.spec.Linux.TimeOffsets)) {
		o := c.spec.Linux.TimeOffsets[clock]
		fmt.Fprintf(&text, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	if text.Len() == 0 {
		return
	}
	fd := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str("/proc/self/timens_offsets"), launch.Int(unix.O_WRONLY|cloexec), launch.Int(0))
	c.Call(unix.SYS_WRITE, launch.Result(fd), c.Str(text.String()), launch.Int(text.Len()))
	c.Call(unix.SYS_CLOSE, launch.Result(fd))
}
