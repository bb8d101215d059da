package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is a program made ready for one child: addresses instead of offsets, and all
// memory the child will write to. It is reached by pointers only, so that the child needs
// no bounds check; validate has made the checks.
type image struct {
	ops     *op
	results *int64 // one per operation; negative: failed with -errno, or skipped
	count   int
	data    unsafe.Pointer
	files   *int32 // descriptors that become 0..slots-1, all above slots
	slots   int
	control int32 // becomes descriptor slots
	born    bool
	msg     message
	send    sendBuffer
	target  targetBuffer
	sigact  [4]uint64      // all zero: SIG_DFL
	mask    uint64         // empty
	nowhere unsafe.Pointer // nil
}

type message struct {
	kind, step uint32
	value      int64
}

// sendBuffer is what sendmsg needs to pass one descriptor.
type sendBuffer struct {
	hdr unix.Msghdr
	iov unix.Iovec
	ctl struct {
		hdr unix.Cmsghdr
		fd  int32
		_   int32
	}
}

// The functions below run in the child of a Go process: one thread, no scheduler, no
// garbage collector, no growing stack. They are nosplit, call only each other and
// RawSyscall6, and allocate nothing. The linker checks the depth of the stack.

// run arranges the descriptors and performs the program. It does not return.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) run() {
	for i := 0; i < im.slots; i++ {
		fd := *(*int32)(unsafe.Add(unsafe.Pointer(im.files), 4*i))
		var flags uintptr
		if i > 2 {
			flags = unix.O_CLOEXEC
		}
		if r := sys3(unix.SYS_DUP3, uintptr(fd), uintptr(i), flags); r < 0 {
			im.die(0, r)
		}
	}
	if r := sys3(unix.SYS_DUP3, uintptr(im.control), uintptr(im.slots), unix.O_CLOEXEC); r < 0 {
		im.die(0, r)
	}
	im.control = int32(im.slots)
	if r := sys3(unix.SYS_CLOSE_RANGE, uintptr(im.slots+1), uintptr(^uint32(0)), 0); r < 0 {
		im.die(0, r)
	}
	for i := 0; i < im.count; i++ {
		o := (*op)(unsafe.Add(unsafe.Pointer(im.ops), uintptr(i)*unsafe.Sizeof(op{})))
		r := im.resolve(o)
		switch {
		case r < 0:
		case o.nr == opTarget:
			im.target.root, im.target.mode = uintptr(o.args[0]), uint32(o.args[2])
			r = im.target.openTarget((*[maxPath]byte)(unsafe.Add(im.data, o.args[1])))
		case o.nr >= opStore:
			r = im.pseudo(i, o)
		default:
			r = sysOp(o)
		}
		if r < 0 && r != skipped && !tolerated(o, r) {
			im.die(i, r)
		}
		*im.result(i) = r
	}
	im.die(im.count-1, -int64(unix.ENOEXEC)) // a program ends in execve
}

// skipped is the result of an operation that was not run. No errno has this number.
const skipped = -1 << 20

//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) result(i int) *int64 {
	return (*int64)(unsafe.Add(unsafe.Pointer(im.results), 8*i))
}

//go:nosplit
//go:norace
//go:nocheckptr
func tolerated(o *op, r int64) bool {
	e := uint16(-r)
	return o.ignore[0] == uint16(AnyError) || o.ignore[0] == e || o.ignore[1] == e || o.ignore[2] == e || o.ignore[3] == e
}

// resolve puts the results of earlier operations in place, or says that o is skipped.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) resolve(o *op) int64 {
	if o.when != 0 && *im.result(int(o.when - 1)) < 0 {
		return skipped
	}
	if o.unless != 0 && *im.result(int(o.unless - 1)) >= 0 {
		return skipped
	}
	for k := 0; k < 6; k++ {
		if o.kinds[k] == argResult {
			r := *im.result(int(o.args[k]))
			if r < 0 {
				return skipped
			}
			o.args[k] = uint64(r)
		}
	}
	return 0
}

//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) pseudo(i int, o *op) int64 {
	switch o.nr {
	case opStore:
		p := unsafe.Add(im.data, o.args[0])
		if o.args[2] == 8 {
			*(*uint64)(p) = o.args[1]
		} else {
			*(*uint32)(p) = uint32(o.args[1])
		}
		return 0
	case opCheck:
		if im.load(o.args[0], o.args[1])&o.args[2] != o.args[3] {
			return -int64(o.args[4])
		}
		return 0
	case opLoad:
		return int64(im.load(o.args[0], o.args[1]) & o.args[2] & 0x7fffffff)
	case opSend:
		return im.tell(uint32(o.args[0]), i, int64(o.args[2]), int32(o.args[1]))
	case opFork:
		return im.fork(i, o.args[0])
	case opBorn:
		if im.born {
			return 0
		}
		return -int64(unix.ENOSYS)
	case opSignals:
		for sig := uintptr(1); sig <= 64; sig++ {
			sys4(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&im.sigact)), 0, 8)
		}
		return sys4(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&im.mask)), 0, 8)
	case opExec:
		return sysExec(o)
	case opDiffer:
		for n := uint64(0); n < o.args[2]; n++ {
			if im.load(o.args[0]+n, 1) != im.load(o.args[1]+n, 1) {
				return 0
			}
		}
		return -int64(o.args[3])
	case opFail:
		return -int64(o.args[0])
	case opUserNS:
		return im.userNS(o)
	case opRemount:
		return im.remount(o)
	}
	return -int64(unix.ENOSYS)
}

//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) load(at, size uint64) uint64 {
	p := unsafe.Add(im.data, at)
	switch size {
	case 1:
		return uint64(*(*uint8)(p))
	case 2:
		return uint64(*(*uint16)(p))
	case 4:
		return uint64(*(*uint32)(p))
	}
	return *(*uint64)(p)
}

// fork leaves the rest of the program to a new child of the starter and exits.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) fork(i int, flags uint64) int64 {
	r := sys3(unix.SYS_CLONE, uintptr(flags)|unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0)
	if r <= 0 {
		return r
	}
	im.tell(msgPID, i, r, -1)
	im.exit(0)
	return 0 // not reached
}

// tell sends a message, with a descriptor unless fd is negative.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) tell(kind uint32, step int, value int64, fd int32) int64 {
	im.msg.kind, im.msg.step, im.msg.value = kind, uint32(step), value
	// Without a descriptor write(2) will do, which a seccomp filter is the last to forbid.
	if fd < 0 {
		return sys3(unix.SYS_WRITE, uintptr(im.control), uintptr(unsafe.Pointer(&im.msg)), msgSize)
	}
	s := &im.send
	s.iov.Base, s.iov.Len = (*byte)(unsafe.Pointer(&im.msg)), msgSize
	s.hdr.Iov, s.hdr.Iovlen = &s.iov, 1
	s.ctl.hdr.Level, s.ctl.hdr.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	s.ctl.hdr.Len = uint64(unsafe.Sizeof(s.ctl.hdr)) + 4
	s.ctl.fd = fd
	s.hdr.Control, s.hdr.Controllen = (*byte)(unsafe.Pointer(&s.ctl)), uint64(unsafe.Sizeof(s.ctl))
	return sys3(unix.SYS_SENDMSG, uintptr(im.control), uintptr(unsafe.Pointer(&s.hdr)), unix.MSG_NOSIGNAL)
}

// die reports a failed operation and ends the process.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) die(step int, r int64) {
	im.tell(msgFailed, step, -r, -1)
	im.exit(exitFailed)
}

// exit ends the process, by a fault if a seccomp filter forbids the call. Signals have their defaults by then, and
// without being dumpable the process leaves no core.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) exit(code uintptr) {
	for {
		sys3(unix.SYS_EXIT_GROUP, code, 0, 0)
		*(*int32)(im.nowhere) = 0
	}
}

// exitFailed is the status of a child whose program failed. Nobody relies on it.
const exitFailed = 111

//go:nosplit
//go:norace
//go:nocheckptr
func sysOp(o *op) int64 {
	for n := 0; ; n++ {
		r, _, e := syscall.RawSyscall6(uintptr(o.nr), uintptr(o.args[0]), uintptr(o.args[1]), uintptr(o.args[2]),
			uintptr(o.args[3]), uintptr(o.args[4]), uintptr(o.args[5]))
		if e == 0 {
			return int64(r)
		}
		if e != syscall.EAGAIN || o.nr != unix.SYS_OPENAT2 || n >= maxAgain {
			return -int64(e)
		}
	}
}

// sysExec tries the paths in turn, as execvp(3) does: what is missing or may not be
// executed is passed over, and at the end the latter is the better answer.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sysExec(o *op) int64 {
	failure := -int64(unix.ENOENT)
	for list := *(*unsafe.Pointer)(unsafe.Pointer(&o.args[0])); *(*uint64)(list) != 0; list = unsafe.Add(list, 8) {
		_, _, e := syscall.RawSyscall6(unix.SYS_EXECVE, uintptr(*(*uint64)(list)), uintptr(o.args[1]), uintptr(o.args[2]), 0, 0, 0)
		switch e {
		case syscall.EACCES:
			failure = -int64(e)
		case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG:
		default:
			return -int64(e)
		}
	}
	return failure
}

//go:nosplit
//go:norace
//go:nocheckptr
func sys3(nr, a, b, c uintptr) int64 { return sys4(nr, a, b, c, 0) }

//go:nosplit
//go:norace
//go:nocheckptr
func sys4(nr, a, b, c, d uintptr) int64 { return sys5(nr, a, b, c, d, 0) }

//go:nosplit
//go:norace
//go:nocheckptr
func sys5(nr, a, b, c, d, e uintptr) int64 {
	r, _, errno := syscall.RawSyscall6(nr, a, b, c, d, e, 0)
	if errno != 0 {
		return -int64(errno)
	}
	return int64(r)
}
