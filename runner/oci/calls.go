package oci

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// Offsets in what fstat writes.
const (
	statMode = int(unsafe.Offsetof(unix.Stat_t{}.Mode))
	statRdev = int(unsafe.Offsetof(unix.Stat_t{}.Rdev))
)

// sameFile is the size of st_dev and st_ino, with which what fstat writes begins.
const sameFile = 16

// Ways to look something up below a held directory.
const (
	inRoot   = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	noLinks  = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	ownFiles = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
)

// openat2 opens path below a directory.
func (c *compiler) openat2(cond launch.Cond, dir launch.Arg, path string, flags, resolve uint64) launch.Ref {
	if path == "" {
		path = "."
	}
	how := c.Bytes(append(append(launch.Uint64(flags|cloexec), launch.Uint64(0)...), launch.Uint64(resolve)...))
	return c.CallIf(cond, unix.SYS_OPENAT2, dir, c.Str(path), how, launch.Int(unsafe.Sizeof(unix.OpenHow{})))
}

// fstat writes the description of an open file to at.
func (c *compiler) fstat(cond launch.Cond, fd launch.Ref, at launch.Arg) launch.Ref {
	return c.CallIf(cond, sysFstatat, launch.Result(fd), c.Str(""), at, launch.Int(unix.AT_EMPTY_PATH))
}

// checkMode compares the file type of the last fstat into c.stat.
func (c *compiler) checkMode(cond launch.Cond, kind uint64, errno unix.Errno) launch.Ref {
	return c.Check(cond, launch.Offset(c.stat, statMode), 4, unix.S_IFMT, kind, errno)
}

// configure1 sets one parameter of a filesystem being made; an empty value is a flag.
func (c *compiler) configure1(fs launch.Ref, key, value string) {
	if value == "" {
		c.Call(unix.SYS_FSCONFIG, launch.Result(fs), launch.Int(unix.FSCONFIG_SET_FLAG), c.Str(key), launch.Int(0), launch.Int(0))
		return
	}
	c.Call(unix.SYS_FSCONFIG, launch.Result(fs), launch.Int(unix.FSCONFIG_SET_STRING), c.Str(key), c.Str(value), launch.Int(0))
}

// filesystem makes a filesystem that is mounted nowhere. options are "key=value" or "key".
func (c *compiler) filesystem(kind, source string, attrs int, options ...string) launch.Ref {
	fs := c.Call(unix.SYS_FSOPEN, c.Str(kind), launch.Int(unix.FSOPEN_CLOEXEC))
	if source != "" {
		c.configure1(fs, "source", source)
	}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		c.configure1(fs, key, value)
	}
	return c.fsmount(fs, attrs)
}

func (c *compiler) tmpfs(options ...string) launch.Ref {
	return c.filesystem("tmpfs", "tmpfs", 0, c.labelled(options)...)
}

func (c *compiler) fsmount(fs launch.Ref, attrs int) launch.Ref {
	c.Call(unix.SYS_FSCONFIG, launch.Result(fs), launch.Int(unix.FSCONFIG_CMD_CREATE), launch.Int(0), launch.Int(0), launch.Int(0))
	fd := c.Call(unix.SYS_FSMOUNT, launch.Result(fs), launch.Int(unix.FSMOUNT_CLOEXEC), launch.Int(attrs))
	c.Call(unix.SYS_CLOSE, launch.Result(fs))
	return fd
}

// moveMount places a mount on path below dir, or on dir itself if path is "".
func (c *compiler) moveMount(fd launch.Ref, dir launch.Arg, path string) {
	c.moveMountIf(launch.Cond{}, fd, dir, path)
}

func (c *compiler) moveMountIf(cond launch.Cond, fd launch.Ref, dir launch.Arg, path string) launch.Ref {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if path == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	moved := c.CallIf(cond, unix.SYS_MOVE_MOUNT, launch.Result(fd), c.Str(""), dir, c.Str(path), launch.Int(flags))
	c.settle(moved, fd)
	return moved
}

// cloneMount is a bind mount of what fd refers to, placed nowhere.
func (c *compiler) cloneMount(cond launch.Cond, fd launch.Ref, flags int) launch.Ref {
	return c.CallIf(cond, unix.SYS_OPEN_TREE, launch.Result(fd), c.Str(""),
		launch.Int(unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags))
}
