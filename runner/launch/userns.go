package launch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// userNS makes a user namespace by a process that lives for nothing else: a namespace is
// made by clone or unshare only, and its maps have to be written from outside.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) userNS(o *op) int64 {
	if !im.ownProc() {
		return -int64(unix.ENXIO)
	}
	pid := sys4(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0)
	if pid == 0 {
		sys4(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0)
		for {
			sys4(unix.SYS_PPOLL, 0, 0, 0, 0)
		}
	}
	if pid < 0 {
		return pid
	}
	r := im.mapUserNS(o, uint64(pid))
	sys3(unix.SYS_KILL, uintptr(pid), uintptr(unix.SIGKILL), 0)
	for sys4(unix.SYS_WAIT4, uintptr(pid), 0, 0, 0) == -int64(unix.EINTR) {
	}
	return r
}

// ownProc says that /proc shows our PID namespace: in another the maps of some other
// process would be written.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) ownProc() bool {
	b := &im.target.link
	n := sys4(unix.SYS_READLINKAT, atFDCWD, uintptr(unsafe.Pointer(unsafe.StringData("/proc/self\x00"))), uintptr(unsafe.Pointer(b)), 20)
	pid := int64(0)
	for i := int64(0); i < n; i++ {
		pid = 10*pid + int64(b[i]-'0')
	}
	return pid == sys4(unix.SYS_GETPID, 0, 0, 0, 0)
}

// mapUserNS writes the maps of the process's namespace and opens it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) mapUserNS(o *op, pid uint64) int64 {
	const proc = "/proc/"
	b := &im.target.done
	for i := 0; i < len(proc); i++ {
		b[i] = proc[i]
	}
	im.decimal(len(proc), pid)
	dir := sys4(unix.SYS_OPENAT, atFDCWD, uintptr(unsafe.Pointer(b)), unix.O_PATH|unix.O_CLOEXEC, 0)
	if dir < 0 {
		return dir
	}
	r := int64(0)
	if o.args[4] != 0 {
		r = writeAt(dir, "setgroups\x00", unsafe.Pointer(unsafe.StringData("deny")), 4)
	}
	if r >= 0 {
		r = writeAt(dir, "uid_map\x00", unsafe.Add(im.data, o.args[0]), o.args[1])
	}
	if r >= 0 {
		r = writeAt(dir, "gid_map\x00", unsafe.Add(im.data, o.args[2]), o.args[3])
	}
	if r >= 0 {
		r = openAt(dir, "ns/user\x00", unix.O_RDONLY|unix.O_CLOEXEC)
	}
	sys4(unix.SYS_CLOSE, uintptr(dir), 0, 0, 0)
	return r
}

// atFDCWD is AT_FDCWD as a register holds it.
const atFDCWD = ^uintptr(99)

//go:nosplit
//go:norace
//go:nocheckptr
func openAt(dir int64, name string, flags uintptr) int64 {
	return sys4(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.StringData(name))), flags, 0)
}

//go:nosplit
//go:norace
//go:nocheckptr
func writeAt(dir int64, name string, data unsafe.Pointer, size uint64) int64 {
	fd := openAt(dir, name, unix.O_WRONLY|unix.O_CLOEXEC)
	if fd < 0 {
		return fd
	}
	r := sys3(unix.SYS_WRITE, uintptr(fd), uintptr(data), uintptr(size))
	sys4(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0)
	return r
}
