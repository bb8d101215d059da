package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/launch"
)

// mountCgroup shows the container its cgroups: the unified hierarchy, or a directory with
// one hierarchy each. In a cgroup namespace the container's own group is their root.
func (c *compiler) mountCgroup(dest string, o mountOptions) error {
	host, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if host.Mode() == cgroup.None {
		return nil
	}
	if !c.mayChange(specs.CgroupNamespace) {
		return c.bindCgroup(dest, host, o)
	}
	attrs := int(o.here.set | o.below.set)
	if host.Mode() == cgroup.V2 {
		c.place(c.filesystem("cgroup2", "cgroup", attrs, o.data...), dest, unix.S_IFDIR|0o755, false)
		return nil
	}
	dir := c.tmpfs("mode=0755")
	c.place(dir, dest, unix.S_IFDIR|0o755, false)
	for _, h := range host.Hierarchies() {
		fd := c.filesystem("cgroup", "cgroup", attrs, h.Options()...)
		target := c.Target(launch.Result(dir), h.Name, unix.S_IFDIR|0o755)
		c.moveMount(fd, launch.Result(target), "")
		c.Call(unix.SYS_CLOSE, launch.Result(target))
	}
	c.nameControllers(dir, host.Hierarchies())
	c.placesAmong(dir, dest, host.Hierarchies())
	c.setAttr(dir, 0, attr{set: uint64(attrs)})
	c.placed = append(c.placed, placed{dest: dest, fd: dir})
	return nil
}

// bindCgroup shows a container without a cgroup namespace the groups it is in, and not
// those above.
func (c *compiler) bindCgroup(dest string, host *cgroup.Host, o mountOptions) error {
	list := host.Hierarchies()
	var dirs []string
	for _, p := range c.opts.CgroupProcs {
		dirs = append(dirs, path.Dir(p))
	}
	if len(dirs) == 0 { // it stays in ours
		var err error
		if dirs, err = host.Own(); err != nil {
			return err
		}
	}
	if len(dirs) != len(list) {
		return fmt.Errorf("cgroup mount of %d groups in %d hierarchies: %w", len(dirs), len(list), errdefs.ErrInvalidArgument)
	}
	attrs := attr{set: o.here.set | o.below.set}
	group := func(i int) launch.Ref {
		fd := c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(dirs[i]), launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
		c.setAttr(fd, 0, attrs)
		return fd
	}
	if host.Mode() == cgroup.V2 {
		c.place(group(0), dest, unix.S_IFDIR|0o755, false)
		return nil
	}
	dir := c.tmpfs("mode=0755")
	own := c.newNamespace(specs.MountNamespace)
	if own {
		c.place(dir, dest, unix.S_IFDIR|0o755, false)
	}
	for i, h := range list {
		target := c.Target(launch.Result(dir), h.Name, unix.S_IFDIR|0o755)
		c.moveMount(group(i), launch.Result(target), "")
		c.Call(unix.SYS_CLOSE, launch.Result(target))
	}
	c.nameControllers(dir, list)
	c.placesAmong(dir, dest, list)
	c.setAttr(dir, 0, attrs)
	if !own { // in a tree without a place attributes cannot be changed
		c.place(dir, dest, unix.S_IFDIR|0o755, false)
	}
	c.placed = append(c.placed, placed{dest: dest, fd: dir})
	return nil
}

// nameControllers makes links from the names of controllers that share a hierarchy to its directory, as on the
// host and with runc: cpu is cpu,cpuacct.
func (c *compiler) nameControllers(dir launch.Ref, list []cgroup.Hierarchy) {
	for _, h := range list {
		names := strings.Split(h.Name, ",")
		for _, name := range names {
			if len(names) > 1 && name != "" {
				c.CallIf(ignore(unix.EEXIST), unix.SYS_SYMLINKAT, c.Str(h.Name), launch.Result(dir), c.Str(name))
			}
		}
	}
}

// placesAmong makes the directories beside the hierarchies that mounts of the spec want, such as
// podman's for a systemd in the container: later dir is read-only.
func (c *compiler) placesAmong(dir launch.Ref, dest string, list []cgroup.Hierarchy) {
	for _, m := range c.spec.Mounts {
		name, below := strings.CutPrefix(destination(m), dest+"/")
		if !below || strings.Contains(name, "/") || slices.ContainsFunc(list, func(h cgroup.Hierarchy) bool { return h.Name == name }) {
			continue
		}
		target := c.Target(launch.Result(dir), name, unix.S_IFDIR|0o755)
		c.Call(unix.SYS_CLOSE, launch.Result(target))
	}
}
