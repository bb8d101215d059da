package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// maskDirs is where the empty directory over masked directories is opened.
const maskDirs = firstFD - 2

// openMaskDir makes the empty read-only directory that covers masked directories, one for
// all. It is mounted on the host's /proc, which nothing needs any more and which is left
// behind with the rest: only a mount with a place can be cloned before Linux 6.15.
func (c *compiler) openMaskDir() {
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	c.Note("making the mask of directories")
	fd := c.filesystem("tmpfs", "tmpfs", unix.MOUNT_ATTR_RDONLY, c.labelled([]string{"mode=0755", "nr_inodes=1", "size=4k"})...)
	if c.newNamespace(specs.MountNamespace) {
		c.moveMount(fd, launch.Int(atFDCWD), "/proc")
	}
	c.Call(unix.SYS_DUP3, launch.Result(fd), launch.Int(maskDirs), launch.Int(cloexec))
	c.Call(unix.SYS_CLOSE, launch.Result(fd))
}

// protectPaths makes paths read-only, then the root, then masks paths.
// Paths that are missing are passed over; everything else that fails is a failure.
func (c *compiler) protectPaths() error {
	for _, p := range c.spec.Linux.ReadonlyPaths {
		if err := checkPath(p); err != nil {
			return err
		}
		c.Note("making %s read-only", p)
		target := c.existing(p)
		c.notRoot(target)
		c.coverFrom(path.Clean(p))
		tree := c.cloneMount(launch.Cond{}, target, unix.AT_RECURSIVE)
		c.below[tree] = c.madeBelow(path.Clean(p))
		c.setAttr(tree, unix.AT_RECURSIVE, attr{set: unix.MOUNT_ATTR_RDONLY})
		c.moveMount(tree, launch.Result(target), "")
	}
	for _, p := range c.placed {
		if p.dest == "/dev" && !p.bind && slices.ContainsFunc(c.spec.Mounts, c.lateReadOnly) {
			c.Note("making /dev read-only")
			c.setAttr(p.fd, 0, attr{set: unix.MOUNT_ATTR_RDONLY})
		}
	}
	if c.spec.Root.Readonly {
		c.Note("making the root read-only")
		c.setAttr(c.root, 0, attr{set: unix.MOUNT_ATTR_RDONLY})
	}
	c.openMaskDir()
	seen := map[string]bool{}
	for _, p := range c.spec.Linux.MaskedPaths {
		if seen[path.Clean(p)] {
			continue
		}
		seen[path.Clean(p)] = true
		if err := checkPath(p); err != nil {
			return err
		}
		c.Note("masking %s", p)
		target := c.existing(p)
		// Every operation on a missing target is skipped with it; so is what depends on them.
		known := c.notRoot(target)
		isDir := c.checkMode(launch.Cond{When: known, Ignore: []unix.Errno{unix.ENOTDIR}}, unix.S_IFDIR, unix.ENOTDIR)
		file := launch.Cond{When: known, Unless: isDir}
		cover := c.cloneMount(file, c.null, 0)
		if c.hasSetAttr { // else it has them from c.null
			c.setAttr(cover, 0, hostsNode())
		}
		c.moveMountIf(file, cover, launch.Result(target), "")
		dir := launch.Cond{When: isDir}
		cover = c.CallIf(dir, unix.SYS_OPEN_TREE, launch.Int(maskDirs), c.Str(""),
			launch.Int(unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
		c.moveMountIf(dir, cover, launch.Result(target), "")
	}
	return nil
}

// hostsNode are the attributes of a mount of one of the host's devices: it can be written to
// there, and its owner, mode and times, which are the host's, stay as they are.
func hostsNode() attr { return attr{set: unix.MOUNT_ATTR_RDONLY} }

func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") || path.Clean(p) == "/" || len(p) >= unix.PathMax {
		return fmt.Errorf("masked or read-only path %q: %w", p, errdefs.ErrInvalidArgument)
	}
	return nil
}

// notRoot refuses a link of the image that leads to the root, which is never covered: a command that is executed later would
// be above the cover, and what is masked below it. The description of target is in c.stat then.
func (c *compiler) notRoot(target launch.Ref) (known launch.Ref) {
	known = c.fstat(launch.Cond{}, target, c.stat)
	c.Differ(launch.Cond{When: known}, c.stat, c.self, sameFile, unix.ELOOP)
	return known
}

// coverFrom notes that what p leads to gets a copy of itself over it, with copies of all that is mounted below. What
// c.placed holds open would then be under the copy, where nothing that is mounted has an effect.
func (c *compiler) coverFrom(p string) {
	if dir, rest := c.base(p); dir == c.root || rest == "" || strings.HasPrefix(p, "/dev/") {
		c.copied = true // a link may lead anywhere
		return
	}
	c.copied = c.copied || slices.ContainsFunc(c.placed, func(m placed) bool { return strings.HasPrefix(m.dest, p+"/") })
}

// existing opens a path of the container, from the filesystem it is on if that is ours and not under a copy. From /dev
// links lead into /proc, such as /dev/core, which are found from the root only.
func (c *compiler) existing(p string) launch.Ref {
	dir, rest := c.base(path.Clean(p))
	if c.copied || strings.HasPrefix(path.Clean(p), "/dev/") {
		dir, rest = c.root, strings.TrimPrefix(path.Clean(p), "/")
	}
	return c.openat2(ignore(unix.ENOENT, unix.ENOTDIR), launch.Result(dir), rest, unix.O_PATH, inRoot)
}
