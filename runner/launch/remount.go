package launch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// remount is mount_setattr(2) for one mount on kernels without it: a mount that has a place
// is changed by mount(2), which wants all flags of the mount and not only those that change,
// or its propagation. Descriptors are given to it as links of procfs.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) remount(o *op) int64 {
	path := im.fdPath(o.args[0])
	if o.args[3] != 0 {
		return mount(path, uintptr(o.args[3]))
	}
	st := &im.target.statfs
	if r := sys4(unix.SYS_FSTATFS, uintptr(o.args[0]), uintptr(unsafe.Pointer(st)), 0, 0); r < 0 {
		return r
	}
	// Flags that a mount is locked with stay, as they have to; mount_namespaces(7).
	flags := uint64(st.Flags) & (unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NODIRATIME)
	switch {
	case st.Flags&unix.ST_NOATIME != 0:
		flags |= unix.MS_NOATIME
	case st.Flags&unix.ST_RELATIME != 0:
		flags |= unix.MS_RELATIME
	default:
		flags |= unix.MS_STRICTATIME
	}
	if st.Flags&stNoSymfollow != 0 {
		flags |= unix.MS_NOSYMFOLLOW
	}
	return mount(path, uintptr(flags&^o.args[2]|o.args[1]|unix.MS_REMOUNT|unix.MS_BIND))
}

// stNoSymfollow is ST_NOSYMFOLLOW of linux/statfs.h, Linux 5.10.
const stNoSymfollow = 0x2000

//go:nosplit
//go:norace
//go:nocheckptr
func mount(path *byte, flags uintptr) int64 {
	empty := uintptr(unsafe.Pointer(unsafe.StringData("\x00")))
	return sys5(unix.SYS_MOUNT, empty, uintptr(unsafe.Pointer(path)), empty, flags, 0)
}

// fdPath is the path of a descriptor, in b.done.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) fdPath(fd uint64) *byte {
	const dir = "/proc/self/fd/"
	b := &im.target.done
	for i := 0; i < len(dir); i++ {
		b[i] = dir[i]
	}
	im.decimal(len(dir), fd)
	return &b[0]
}

// decimal writes a number and a NUL at b.done[at].
//
//go:nosplit
//go:norace
//go:nocheckptr
func (im *image) decimal(at int, v uint64) {
	b := &im.target.done
	end := at + 1
	for n := v; n >= 10; n /= 10 {
		end++
	}
	b[end] = 0
	for i := end - 1; i >= at; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
}
