package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// action is the value a filter returns; seccomp(2). The errno of ERRNO and TRACE is EPERM
// unless one is given, as in runc.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	n := uint(unix.EPERM)
	if errno != nil {
		n = *errno
	}
	if n > 0xffff {
		return 0, fmt.Errorf("errno %d: %w", n, errdefs.ErrInvalidArgument)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | uint32(n), nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | uint32(n), nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	}
	return 0, fmt.Errorf("action %q: %w", a, errdefs.ErrInvalidArgument)
}

// permissive says that calls the profile does not know are let through somehow.
func permissive(a specs.LinuxSeccompAction) bool {
	return a == specs.ActAllow || a == specs.ActLog || a == specs.ActTrace || a == specs.ActNotify
}

// loadFlags translates the flags. Without any, runc's default holds: do not slow the
// container down by speculation barriers. TSYNC has no meaning for one thread.
func loadFlags(flags []specs.LinuxSeccompFlag) (uint, error) {
	if flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var v uint
	for _, f := range flags {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
		case specs.LinuxSeccompFlagLog:
			v |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			v |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			v |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, fmt.Errorf("flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	return v, nil
}

func validOperator(op specs.LinuxSeccompOperator) bool {
	switch op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
		specs.OpGreaterThan, specs.OpMaskedEqual:
		return true
	}
	return false
}
