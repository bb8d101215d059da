package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// targetBuffer is the memory openTarget works in.
type targetBuffer struct {
	rest   [2 * maxPath]byte // what is still to be resolved, at its end
	done   [maxPath]byte     // what has been, without links
	link   [maxPath]byte     // text of a link
	dot    [2]byte           // "."
	nul    [1]byte           // ""
	stat   unix.Stat_t
	statfs unix.Statfs_t
	how    unix.OpenHow
	root   uintptr
	mode   uint32
	pos    int // where the text in rest begins
	end    int // where the last component in done begins, at its slash
}

// maxLinks is the kernel's own limit for links in one lookup; path_resolution(7).
const maxLinks = 40

// openTarget opens path inside root and creates what is missing.
//
// No lookup it makes can leave the root (RESOLVE_IN_ROOT) or follow a link of procfs, and
// creating never follows a link at all, so whoever renames things below the root at the
// same time can choose which place of the root is used and nothing else. The walk exists
// for what a plain openat2 cannot do: create what a dangling link points to, as docker
// does for an /etc/resolv.conf that is a link into /run.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) openTarget(path *[maxPath]byte) int64 {
	flags := uint64(unix.O_PATH)
	if b.mode&unix.S_IFMT == unix.S_IFDIR {
		flags |= unix.O_DIRECTORY
	}
	r := b.open(&path[0], flags)
	if r != -int64(unix.ENOENT) {
		return r
	}
	n := 0
	for path[n] != 0 {
		n++
	}
	b.pos = len(b.rest) - 1 - n
	for i := 0; i <= n; i++ {
		b.rest[b.pos+i] = path[i]
	}
	if r := b.walk(); r < 0 {
		return r
	}
	if b.done[0] == 0 {
		return b.open(&b.dot[0], flags)
	}
	return b.open(&b.done[0], flags)
}

// walk resolves b.rest component by component into b.done.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) walk() int64 {
	b.end, b.done[0], b.dot[0] = 0, 0, '.'
	for links := 0; ; {
		n := b.next()
		if n <= 0 {
			return int64(n)
		}
		link := b.enter()
		if link < 0 {
			return link
		}
		if link == 0 {
			b.end += 1 + n
			continue
		}
		if links++; links > maxLinks {
			return -int64(unix.ELOOP)
		}
		if b.link[0] == '/' {
			b.end = 0
		}
		b.done[b.end] = 0
		// The link's text goes before what is left, which is kept at the end of its buffer.
		if b.pos < int(link)+1 {
			return -int64(unix.ENAMETOOLONG)
		}
		b.pos--
		b.rest[b.pos] = '/'
		for i := int(link) - 1; i >= 0; i-- {
			b.pos--
			b.rest[b.pos] = b.link[i]
		}
	}
}

// next moves the next component from b.rest to b.done, behind b.end, and returns its
// length: 0 at the end. It goes through "." and ".." by itself; there are no links in
// b.done, so its text can be cut.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) next() int {
	for {
		for b.rest[b.pos] == '/' {
			b.pos++
		}
		n := 0
		for b.rest[b.pos+n] != 0 && b.rest[b.pos+n] != '/' {
			n++
		}
		switch {
		case n == 0:
			return 0
		case n == 1 && b.rest[b.pos] == '.':
		case n == 2 && b.rest[b.pos] == '.' && b.rest[b.pos+1] == '.':
			for b.end > 0 {
				b.end--
				if b.done[b.end] == '/' {
					break
				}
			}
			b.done[b.end] = 0
		case b.end+n+2 > maxPath:
			return -int(unix.ENAMETOOLONG)
		default:
			b.done[b.end] = '/'
			for i := 0; i < n; i++ {
				b.done[b.end+1+i] = b.rest[b.pos+i]
			}
			b.done[b.end+1+n] = 0
			b.pos += n
			return n
		}
		b.pos += n
	}
}

// enter makes sure that b.done exists. If its last component is a link, the text goes to
// b.link and its length is returned, otherwise 0 or -errno.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) enter() int64 {
	fd := b.open(&b.done[0], unix.O_PATH|unix.O_NOFOLLOW)
	if fd == -int64(unix.ENOENT) {
		if r := b.create(); r < 0 && r != -int64(unix.EEXIST) {
			return r
		}
		fd = b.open(&b.done[0], unix.O_PATH|unix.O_NOFOLLOW)
	}
	if fd < 0 {
		return fd
	}
	nul := uintptr(unsafe.Pointer(&b.nul))
	r := sys4(sysFstatat, uintptr(fd), nul, uintptr(unsafe.Pointer(&b.stat)), unix.AT_EMPTY_PATH)
	if r == 0 && b.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		r = sys4(unix.SYS_READLINKAT, uintptr(fd), nul, uintptr(unsafe.Pointer(&b.link)), maxPath-1)
		if r == 0 {
			r = -int64(unix.ENOENT)
		}
	}
	sys4(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0)
	return r
}

// create makes the last component of b.done in the directory of the ones before: what was
// asked for if it is the last of all, else a directory.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) create() int64 {
	dir := &b.dot[0]
	if b.end > 0 {
		dir = &b.done[0]
	}
	b.done[b.end] = 0
	fd := b.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	b.done[b.end] = '/'
	if fd < 0 {
		return fd
	}
	mode := uint32(unix.S_IFDIR | 0o755)
	if b.isLast() {
		mode = b.mode
	}
	name := uintptr(unsafe.Pointer(&b.done[b.end+1]))
	var r int64
	if mode&unix.S_IFMT == unix.S_IFDIR {
		r = sys4(unix.SYS_MKDIRAT, uintptr(fd), name, uintptr(mode&0o7777), 0)
	} else {
		r = sys4(unix.SYS_MKNODAT, uintptr(fd), name, uintptr(unix.S_IFREG|mode&0o7777), 0)
	}
	sys4(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0)
	return r
}

// isLast says that nothing but slashes is left.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) isLast() bool {
	i := b.pos
	for b.rest[i] == '/' {
		i++
	}
	return b.rest[i] == 0
}

//go:nosplit
//go:norace
//go:nocheckptr
func (b *targetBuffer) open(path *byte, flags uint64) int64 {
	b.how.Flags, b.how.Mode = flags|unix.O_CLOEXEC, 0
	b.how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	for n := 0; ; n++ {
		r, _, e := syscall.RawSyscall6(unix.SYS_OPENAT2, b.root, uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(&b.how)), unsafe.Sizeof(b.how), 0, 0)
		if e == 0 {
			return int64(r)
		}
		if e != syscall.EAGAIN || n >= maxAgain {
			return -int64(e)
		}
	}
}

// maxAgain is how often a scoped lookup is tried again: the kernel gives up with EAGAIN
// when anything is renamed while it looks at "..", openat2(2).
const maxAgain = 10000
