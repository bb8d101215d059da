package oci

import (
	"fmt"

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

// cloneFlags are the namespaces the process is made with. The cgroup namespace is not
// among them: its root is the cgroup at the time it is made, so cgroups are joined first.
func cloneFlags(s *specs.Spec) (uint64, error) {
	var flags, seen uint64
	for _, ns := range s.Linux.Namespaces {
		f := namespaceFlag(ns.Type)
		switch {
		case f == 0 || seen&f != 0:
			return 0, fmt.Errorf("namespace %q is unknown or twice: %w", ns.Type, errdefs.ErrInvalidArgument)
		case f == unix.CLONE_NEWUSER || f == unix.CLONE_NEWTIME:
			return 0, fmt.Errorf("%s namespace: %w", ns.Type, errdefs.ErrNotImplemented)
		case f == unix.CLONE_NEWNS && ns.Path != "":
			return 0, fmt.Errorf("joining a mount namespace: %w", errdefs.ErrNotImplemented)
		}
		seen |= f
		if ns.Path == "" && f != unix.CLONE_NEWCGROUP {
			flags |= f
		}
	}
	if flags&unix.CLONE_NEWNS == 0 {
		return 0, fmt.Errorf("container without a mount namespace: %w", errdefs.ErrNotImplemented)
	}
	return flags, nil
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

// joinNamespaces enters the namespaces given by path. All are opened before the first is
// entered, and the PID namespace, which holds for children only, is entered last.
func (c *compiler) joinNamespaces() error {
	type joined struct {
		fd   launch.Ref
		kind specs.LinuxNamespaceType
		path string
	}
	var list []joined
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		c.Note("opening the %s namespace %s", ns.Type, ns.Path)
		fd := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(ns.Path), launch.Int(unix.O_RDONLY|cloexec), launch.Int(0))
		list = append(list, joined{fd, ns.Type, ns.Path})
	}
	fork := false
	for _, j := range list {
		c.Note("joining the %s namespace %s", j.kind, j.path)
		c.Call(unix.SYS_SETNS, launch.Result(j.fd), launch.Int(namespaceFlag(j.kind)))
		fork = fork || j.kind == specs.PIDNamespace
	}
	if c.newNamespace(specs.CgroupNamespace) {
		c.Note("making the cgroup namespace")
		c.Call(unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWCGROUP))
	}
	if fork {
		c.Note("entering the PID namespace")
		c.Fork(0)
		c.Call(unix.SYS_SETSID)
	}
	return nil
}
