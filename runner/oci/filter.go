package oci

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/seccomp"
)

// loadSeccomp loads the filter of the spec. What follows in the program must do with what
// the filter leaves; a failure is told by write(2).
func (c *compiler) loadSeccomp() error {
	f, err := seccomp.Compile(c.spec.Linux.Seccomp)
	if err != nil || f == nil {
		return err
	}
	c.Note("loading the seccomp filter of %d instructions", len(f.Program))
	code := make([]byte, 0, 8*len(f.Program))
	for _, in := range f.Program {
		code = binary.NativeEndian.AppendUint16(code, in.Code)
		code = append(code, in.Jt, in.Jf)
		code = binary.NativeEndian.AppendUint32(code, in.K)
	}
	prog := c.Bytes(append(launch.Uint64(uint64(len(f.Program))), 0, 0, 0, 0, 0, 0, 0, 0)) // struct sock_fprog
	c.SetPointer(launch.Offset(prog, 8), c.Bytes(code))
	if !f.Notify {
		c.Call(unix.SYS_SECCOMP, launch.Int(unix.SECCOMP_SET_MODE_FILTER), launch.Int(f.Flags), prog)
		return nil
	}
	if err := checkNotify(c.spec.Linux.Seccomp); err != nil {
		return err
	}
	listener := c.Call(unix.SYS_SECCOMP, launch.Int(unix.SECCOMP_SET_MODE_FILTER), launch.Int(f.Flags|unix.SECCOMP_FILTER_FLAG_NEW_LISTENER), prog)
	switch {
	case c.opts.Listener != "": // whoever follows takes it from us meanwhile
		c.SendNumber(launch.Result(listener))
		c.Call(unix.SYS_READ, launch.Int(listenerFD), c.Buffer(8), launch.Int(1))
		c.Call(unix.SYS_CLOSE, launch.Int(listenerFD))
	case c.sendListener:
		c.SendListener(launch.Result(listener))
	default:
		return fmt.Errorf("seccomp action SCMP_ACT_NOTIFY without a listenerPath: %w", errdefs.ErrInvalidArgument)
	}
	c.Call(unix.SYS_CLOSE, launch.Result(listener))
	return nil
}

// checkNotify refuses profiles that would make the process wait for its listener before
// anybody has it.
func checkNotify(s *specs.LinuxSeccomp) error {
	if s.DefaultAction == specs.ActNotify {
		return fmt.Errorf("SCMP_ACT_NOTIFY cannot be used as default action: %w", errdefs.ErrInvalidArgument)
	}
	for _, sc := range s.Syscalls {
		for _, name := range sc.Names {
			if sc.Action == specs.ActNotify && slices.Contains([]string{"write", "read", "sendmsg", "close"}, name) {
				return fmt.Errorf("SCMP_ACT_NOTIFY cannot be used for the %s syscall: %w", name, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// openListener opens the FIFO behind listenerFD under its own number.
func (c *compiler) openListener() {
	fifo := c.openat2(launch.Cond{}, launch.Result(c.proc), fmt.Sprintf("self/fd/%d", listenerFD), unix.O_RDWR, 0)
	c.Call(unix.SYS_DUP3, launch.Result(fifo), launch.Int(listenerFD), launch.Int(cloexec))
	c.Call(unix.SYS_CLOSE, launch.Result(fifo))
}
