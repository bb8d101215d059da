package oci

import (
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// makeConsole makes the terminal from the container's own devpts, by the descriptor it
// was mounted with: nothing the image has can stand in its place (CVE-2025-52565).
func (c *compiler) makeConsole() error {
	if !c.process.Terminal {
		c.ownStdio()
		return nil
	}
	var pts, dev launch.Ref
	for _, p := range c.placed {
		switch {
		case p.dest == "/dev/pts" && !p.bind:
			pts = p.fd
		case p.dest == "/dev" && !p.bind:
			dev = p.fd
		}
	}
	if pts == 0 {
		return fmt.Errorf("terminal in a container without devpts on /dev/pts: %w", errdefs.ErrNotImplemented)
	}
	c.Note("making the terminal")
	peer := c.terminal(launch.Result(pts))
	var target launch.Ref
	if dev != 0 {
		target = c.Target(launch.Result(dev), "console", unix.S_IFREG|0o600)
	} else { // the image's, or one of the host, whose console must not be the container's
		target = c.Target(launch.Result(c.root), "dev/console", unix.S_IFREG|0o600)
		c.notInProc(target, "/dev/console")
		c.fstat(launch.Cond{}, target, c.stat)
		c.Differ(launch.Cond{}, c.stat, c.self, sameFile, unix.ELOOP)
	}
	c.moveMount(c.cloneMount(launch.Cond{}, peer, 0), launch.Result(target), "")
	c.Call(unix.SYS_CLOSE, launch.Result(target))
	c.useTerminal(peer)
	c.Call(unix.SYS_IOCTL, launch.Int(0), launch.Int(unix.TIOCSCTTY), launch.Int(0))
	return nil
}

// terminal makes a pair from the devpts in the directory pts, gives the master to the
// starter and returns the other side.
func (c *compiler) terminal(pts launch.Arg) launch.Ref {
	master := c.Call(unix.SYS_OPENAT, pts, c.Str("ptmx"), launch.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW|cloexec), launch.Int(0))
	c.Call(unix.SYS_IOCTL, launch.Result(master), launch.Int(unix.TIOCSPTLCK), c.Buffer(4))
	peer := c.Call(unix.SYS_IOCTL, launch.Result(master), launch.Int(unix.TIOCGPTPEER), launch.Int(unix.O_RDWR|unix.O_NOCTTY|cloexec))
	if s := c.process.ConsoleSize; s != nil && (s.Height > 0 || s.Width > 0) {
		size := []byte{byte(s.Height), byte(s.Height >> 8), byte(s.Width), byte(s.Width >> 8), 0, 0, 0, 0}
		c.Call(unix.SYS_IOCTL, launch.Result(master), launch.Int(unix.TIOCSWINSZ), c.Bytes(size))
	}
	c.SendConsole(launch.Result(master))
	c.Call(unix.SYS_CLOSE, launch.Result(master))
	return peer
}

// useTerminal makes peer the standard files and the user its owner.
func (c *compiler) useTerminal(peer launch.Ref) {
	if uid := c.process.User.UID; uid != 0 {
		c.Call(unix.SYS_FCHOWNAT, launch.Result(peer), c.Str(""), launch.Int(uid), launch.Int(-1), launch.Int(unix.AT_EMPTY_PATH))
	}
	for fd := range 3 {
		c.Call(unix.SYS_DUP3, launch.Result(peer), launch.Int(fd), launch.Int(0))
	}
	c.Call(unix.SYS_CLOSE, launch.Result(peer))
}

// guardNull puts the host's null device, where it is a standard file, behind a mount that is
// read-only: the process could change its mode and owner otherwise. runc opens the container's
// own instead, which an exec may not find any more.
func (c *compiler) guardNull() {
	if c.process.Terminal || !c.hasSetAttr {
		return
	}
	c.Note("guarding the null device")
	any := []unix.Errno{launch.AnyError} // who has no right to this cannot give one away
	when := func(r launch.Ref) launch.Cond { return launch.Cond{When: r, Ignore: any} }
	node := c.CallIf(launch.Cond{Ignore: any}, unix.SYS_OPEN_TREE, launch.Int(atFDCWD), c.Str("/dev/null"), launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
	guarded := c.setAttrIf(when(node), node, 0, hostsNode())
	held := c.CallIf(when(guarded), unix.SYS_DUP3, launch.Result(node), launch.Int(nullFD), launch.Int(cloexec))
	for fd := range 3 {
		known := c.CallIf(when(held), sysFstatat, launch.Int(fd), c.Str(""), c.stat, launch.Int(unix.AT_EMPTY_PATH))
		device := c.checkMode(when(known), unix.S_IFCHR, unix.ENODEV)
		null := c.Check(when(device), launch.Offset(c.stat, statRdev), 8, ^uint64(0), unix.Mkdev(1, 3), unix.ENODEV)
		own := c.CallIf(when(null), unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(fmt.Sprintf("/proc/self/fd/%d", nullFD)), launch.Int(unix.O_RDWR|cloexec), launch.Int(0))
		c.CallIf(when(own), unix.SYS_DUP3, launch.Result(own), launch.Int(fd), launch.Int(0))
		c.CallIf(when(own), unix.SYS_CLOSE, launch.Result(own))
	}
	c.CallIf(when(held), unix.SYS_CLOSE, launch.Int(nullFD))
	c.CallIf(when(node), unix.SYS_CLOSE, launch.Result(node))
}

// ownStdio gives pipes among the standard files to the user, so that /dev/stdout can be
// opened by who is not root. Anything else, such as the host's /dev/null, is left alone.
func (c *compiler) ownStdio() {
	uid := c.process.User.UID
	if uid == 0 {
		return
	}
	c.Note("giving standard files to user %d", uid)
	for fd := range 3 {
		c.Call(sysFstatat, launch.Int(fd), c.Str(""), c.stat, launch.Int(unix.AT_EMPTY_PATH))
		pipe := c.checkMode(ignore(unix.ENOTTY), unix.S_IFIFO, unix.ENOTTY)
		c.CallIf(launch.Cond{When: pipe, Ignore: []unix.Errno{unix.EPERM, unix.EROFS, unix.EINVAL}},
			unix.SYS_FCHOWNAT, launch.Int(fd), c.Str(""), launch.Int(uid), launch.Int(-1), launch.Int(unix.AT_EMPTY_PATH))
	}
}
