package oci

import (
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// compileExec makes a process that enters the container with one setns and then becomes
// the user, still outside the container's PID namespace: only its child, which has nothing
// left to give away, is seen by (and can be traced from) the container.
func compileExec(s *specs.Spec, p *specs.Process, o ExecOptions) (*launch.Program, error) {
	c := &compiler{spec: s, process: p, preserve: o.Preserve, command: o.Command, keepGroups: o.KeepGroups, sendListener: true, hasSetAttr: mount.CanSetAttr()}
	if err := c.compileExec(o); err != nil {
		return nil, fmt.Errorf("compiling the exec: %w", err)
	}
	return c.Program()
}

func (c *compiler) compileExec(o ExecOptions) error {
	if c.spec.Linux == nil || c.process == nil {
		return fmt.Errorf("no process or no container: %w", errdefs.ErrInvalidArgument)
	}
	fixed := ExecSlots(c.spec)
	if o.Preserve < 0 || o.Preserve > maxPreserve+3-fixed {
		return fmt.Errorf("%d files to preserve: %w", o.Preserve, errdefs.ErrInvalidArgument)
	}
	if err := checkProcess(c.process); err != nil {
		return err
	}
	if err := checkNamespaces(c.spec); err != nil {
		return err
	}
	if err := c.checkUser(); err != nil {
		return err
	}
	c.Assembler = launch.NewAssembler(launch.Options{Slots: fixed + o.Preserve, CgroupDir: o.CgroupDir})
	if err := c.beginExec(o); err != nil {
		return err
	}
	c.enterContainer()
	if fixed > RootSlot {
		c.Call(unix.SYS_FCHDIR, launch.Int(RootSlot))
		c.Call(unix.SYS_CHROOT, c.Str("."))
	}
	if !o.SharedKeyring {
		c.joinKeyring(o.Keyring)
	}
	for fd := 3; fd < 3+o.Preserve; fd++ { // over what has served
		c.Call(unix.SYS_DUP3, launch.Int(fd+fixed-3), launch.Int(fd), launch.Int(0))
	}
	c.execConsole()
	if err := c.becomeUser(); err != nil {
		return err
	}
	c.Note("starting the process in the PID namespace")
	c.hide() // the user has changed again, and the others of the namespace will see it
	c.Fork(0)
	c.Call(unix.SYS_SETSID)
	if c.process.Terminal {
		c.Call(unix.SYS_IOCTL, launch.Int(0), launch.Int(unix.TIOCSCTTY), launch.Int(0))
	}
	return c.execute()
}

// beginExec does what takes the host's rights.
func (c *compiler) beginExec(o ExecOptions) error {
	c.Note("starting the process")
	c.stat = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.DefaultSignals()
	c.Call(unix.SYS_UMASK, launch.Int(0))
	c.hide()
	c.guardNull()
	affinity := c.process.ExecCPUAffinity
	if affinity != nil {
		if err := c.setAffinity(affinity.Initial); err != nil {
			return err
		}
	}
	c.joinCgroups(o.CgroupProcs, o.CgroupDir)
	if affinity == nil {
		c.resetAffinity()
	}
	if affinity != nil {
		if err := c.setAffinity(affinity.Final); err != nil {
			return err
		}
	}
	if c.user {
		if err := c.raiseLimits(); err != nil {
			return err
		}
	}
	switch {
	case !c.needLabels():
	case canMountProc():
		c.openProc()
	default:
		c.openCallersProc()
	}
	if c.proc != 0 {
		c.labelKeys()
	}
	return c.labels()
}

// enterContainer is the one setns, after which the process is root of the container.
func (c *compiler) enterContainer() {
	c.Note("entering the container")
	var flags uint64
	for _, ns := range c.spec.Linux.Namespaces {
		flags |= namespaceFlag(ns.Type)
	}
	if !c.user {
		flags &^= unix.CLONE_NEWUSER
	}
	if flags != 0 {
		c.Call(unix.SYS_SETNS, launch.Int(pidfdSlot), launch.Int(flags))
	}
	if c.user { // what it makes, such as a terminal, is to have an owner there
		c.Call(unix.SYS_SETRESGID, launch.Int(0), launch.Int(0), launch.Int(0))
		c.Call(unix.SYS_SETRESUID, launch.Int(0), launch.Int(0), launch.Int(0))
		c.hide() // a change of user may have shown it: proc(5), fs.suid_dumpable
	}
}

// execConsole makes a terminal from the container's devpts, found by its path. What is
// found is used only if it is a devpts.
func (c *compiler) execConsole() {
	if !c.process.Terminal {
		c.ownStdio()
		return
	}
	c.Note("making the terminal")
	pts := c.openat2(launch.Cond{}, launch.Int(atFDCWD), "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	fs := c.Buffer(int(unsafe.Sizeof(unix.Statfs_t{})))
	c.Call(unix.SYS_FSTATFS, launch.Result(pts), fs)
	c.Check(launch.Cond{}, fs, 8, 0xffffffff, unix.DEVPTS_SUPER_MAGIC, unix.ENODEV) // f_type is first
	c.useTerminal(c.terminal(launch.Result(pts)))
}
