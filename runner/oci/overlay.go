package oci

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// firstFD is where descriptors are put that a path (/proc/self/fd/N) has to name. The
// program's own are numbered from 3 and stay far below.
const firstFD = 300

// overlay mounts o without a place.
func (c *compiler) overlay(o mount.Overlay) (launch.Ref, error) {
	if len(o.Lowers) == 0 || (o.Upper == "") != (o.Work == "") {
		return 0, fmt.Errorf("overlay without a lower directory or with half an upper: %w", errdefs.ErrInvalidArgument)
	}
	lowers := o.Lowers
	c.Note("mounting the overlay of %d layers", len(lowers))
	if o.Upper == "" && len(lowers) == 1 {
		// The kernel wants two lowers where there is no upper; the second has nothing in it.
		empty := c.tmpfs("mode=0755")
		c.Call(unix.SYS_DUP3, launch.Result(empty), launch.Int(firstFD-1), launch.Int(cloexec))
		lowers = append(lowers[:1:1], fmt.Sprintf("/proc/self/fd/%d", firstFD-1))
		if !c.kernelAtLeast(6, 15) { // it has to have a place: on the first, in this mount namespace only
			lowers[0] = c.openAt(o.Lowers[0], coveredFD)
			c.moveMount(empty, launch.Int(atFDCWD), o.Lowers[0])
			defer func() { c.Call(unix.SYS_UMOUNT2, c.Str(o.Lowers[0]), launch.Int(unix.MNT_DETACH)) }()
		}
	}
	if !c.kernelAtLeast(6, 5) {
		return c.classicOverlay(o, lowers)
	}
	fs := c.Call(unix.SYS_FSOPEN, c.Str("overlay"), launch.Int(unix.FSOPEN_CLOEXEC))
	c.configure1(fs, "source", "overlay") // as mount(8) and every other engine: scripts look for it
	for i, dir := range lowers {
		c.configure1(fs, "lowerdir+", c.shortPath(dir, firstFD+i))
	}
	if o.Upper != "" {
		c.configure1(fs, "upperdir", c.shortPath(o.Upper, firstFD+len(lowers)))
		c.configure1(fs, "workdir", c.shortPath(o.Work, firstFD+len(lowers)+1))
	}
	for _, kv := range o.Options() {
		c.configure1(fs, kv[0], kv[1])
	}
	for _, option := range c.labelled(nil) {
		c.configure1(fs, "context", strings.TrimPrefix(option, "context="))
	}
	attrs := 0
	if o.Upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	return c.fsmount(fs, attrs), nil
}

// shortPath is dir, or a short name of it if fsconfig would not take dir: values have at
// most 255 bytes, and overlayfs gives some characters a meaning.
func (c *compiler) shortPath(dir string, fd int) string {
	if len(dir) < 256 && !strings.ContainsAny(dir, `\:,`) {
		return dir
	}
	return c.openAt(dir, fd)
}

// openAt opens dir as descriptor fd and returns a path for it.
func (c *compiler) openAt(dir string, fd int) string {
	f := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(dir), launch.Int(unix.O_PATH|unix.O_DIRECTORY|cloexec), launch.Int(0))
	c.Call(unix.SYS_DUP3, launch.Result(f), launch.Int(fd), launch.Int(cloexec))
	c.Call(unix.SYS_CLOSE, launch.Result(f))
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

// classicOverlay is for kernels before 6.5, which want all lowers in one string of at most
// a page and a place to mount on: the top layer itself, in this mount namespace only.
func (c *compiler) classicOverlay(o mount.Overlay, lowers []string) (launch.Ref, error) {
	names := make([]string, len(lowers))
	for i, dir := range lowers {
		names[i] = dir
		if !strings.HasPrefix(dir, "/proc/self/fd/") {
			names[i] = c.openAt(dir, firstFD+i)
		}
	}
	data := []string{"lowerdir=" + strings.Join(names, ":")}
	flags := unix.MS_RDONLY
	if o.Upper != "" {
		flags = 0
		data = append(data, "upperdir="+c.openAt(o.Upper, firstFD+len(lowers)), "workdir="+c.openAt(o.Work, firstFD+len(lowers)+1))
	}
	for _, kv := range o.Options() {
		data = append(data, strings.TrimSuffix(kv[0]+"="+kv[1], "="))
	}
	for _, option := range c.labelled(nil) {
		data = append(data, quoted(option))
	}
	all := strings.Join(data, ",")
	if len(all) >= 4096 {
		return 0, fmt.Errorf("overlay of %d layers on a kernel before 6.5: %w", len(lowers), errdefs.ErrNotImplemented)
	}
	top := o.Lowers[0]
	c.Call(unix.SYS_MOUNT, c.Str("overlay"), c.Str(top), c.Str("overlay"), launch.Int(flags), c.Str(all))
	root := c.Call(unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str(top), launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
	c.Call(unix.SYS_UMOUNT2, c.Str(top), launch.Int(unix.MNT_DETACH))
	return root, nil
}

func (c *compiler) kernelAtLeast(major, minor int) bool {
	return !c.opts.oldKernel && mount.KernelAtLeast(major, minor)
}
