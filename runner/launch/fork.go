package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime keeps these three for packages that fork by themselves; runtime/proc.go
// says "Do not remove or change the type signature".

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args; clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// forkRequest is memory of the parent that the clone call reads and writes.
type forkRequest struct {
	flags uint64
	args  cloneArgs // used if args.cgroup is set
	pidfd int32
}

// fork makes the child, a copy-on-write copy of this process, and returns its pid. The
// caller holds syscall.ForkLock. In the child it does not return.
//
// A copy costs more the larger the heap is; the processes that start containers are small
// ones, made for it. CLONE_VM would also share the address space of a process that may
// hold secrets with whatever can trace the child.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(im *image, req *forkRequest) (pid uintptr, errno syscall.Errno) {
	beforeFork()
	if req.args.cgroup != 0 {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&req.args)), unsafe.Sizeof(req.args), 0, 0, 0, 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(req.flags)|uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&req.pidfd)), 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	im.run()
	return 0, 0 // not reached
}
