package oci

import (
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// compileExec makes a process that enters the container with one setns and then becomes
// the user, still outside the container's PID namespace: only its child, which has nothing
// left to give away, is seen by (and can be traced from) the container.
func compileExec(s *specs.Spec, p *specs.Process, o ExecOptions) (*launch.Program, error) {
	if o.Preserve < 0 || o.Preserve > maxPreserve-1 {
		return nil, fmt.Errorf("compiling the exec: %d files to preserve: %w", o.Preserve, errdefs.ErrInvalidArgument)
	}
	c := &compiler{
		Assembler: launch.NewAssembler(launch.Options{Slots: PIDFDSlot + 1 + o.Preserve, CgroupDir: o.CgroupDir}),
		spec:      s, process: p, preserve: o.Preserve,
	}
	if err := c.compileExec(o); err != nil {
		return nil, fmt.Errorf("compiling the exec: %w", err)
	}
	return c.Program()
}

func (c *compiler) compileExec(o ExecOptions) error {
	if c.spec.Linux == nil || c.process == nil {
		return fmt.Errorf("no process or no container: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkProcess(c.process); err != nil {
		return err
	}
	if c.process.ApparmorProfile != "" && c.process.ApparmorProfile != "unconfined" || c.process.SelinuxLabel != "" {
		return fmt.Errorf("labels of an exec: %w", errdefs.ErrNotImplemented)
	}
	var flags uint64
	for _, ns := range c.spec.Linux.Namespaces {
		f := namespaceFlag(ns.Type)
		if f == 0 || f == unix.CLONE_NEWUSER || f == unix.CLONE_NEWTIME {
			return fmt.Errorf("%s namespace: %w", ns.Type, errdefs.ErrNotImplemented)
		}
		flags |= f
	}
	if flags&unix.CLONE_NEWNS == 0 {
		return fmt.Errorf("container without a mount namespace: %w", errdefs.ErrInvalidArgument)
	}
	c.Note("starting the process")
	c.DefaultSignals()
	c.Call(unix.SYS_UMASK, launch.Int(0))
	c.hide()
	c.stat = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.joinCgroups(o.CgroupProcs, o.CgroupDir)
	c.Note("entering the container")
	c.Call(unix.SYS_SETNS, launch.Int(PIDFDSlot), launch.Int(flags))
	c.CallIf(ignore(unix.ENOSYS, unix.EPERM, unix.EACCES), unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), launch.Int(0))
	for fd := 3; fd < 3+o.Preserve; fd++ { // over the pidfd, which has served
		c.Call(unix.SYS_DUP3, launch.Int(fd+1), launch.Int(fd), launch.Int(0))
	}
	c.execConsole()
	if err := c.becomeUser(); err != nil {
		return err
	}
	c.Note("starting the process in the PID namespace")
	c.Fork(0)
	c.hide()
	c.Call(unix.SYS_SETSID)
	if c.process.Terminal {
		c.Call(unix.SYS_IOCTL, launch.Int(0), launch.Int(unix.TIOCSCTTY), launch.Int(0))
	}
	return c.execute()
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
