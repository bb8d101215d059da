package oci

import (
	"fmt"

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
	if !c.ownNamespace(specs.CgroupNamespace) {
		return fmt.Errorf("cgroup mount without a cgroup namespace: %w", errdefs.ErrNotImplemented)
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
	c.setAttr(launch.Cond{}, dir, unix.AT_EMPTY_PATH, attr{set: uint64(attrs)})
	c.placed = append(c.placed, placed{dest: dest, fd: dir})
	return nil
}
