package op

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// copyBuffer is the size of the pieces in which data travels, where the kernel does not move it.
const copyBuffer = 128 << 10

// copyFile makes what is no directory; nothing has its name in fd.
func (c *copier) copyFile(ctx context.Context, fd *os.File, e entry, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		if err := c.makeNode(fd, e, st); err != nil {
			return fmt.Errorf("copying /%s to %s: %w", e.path, e.parent.join(e.target), err)
		}
		return c.dress(fd, e.target, e, st)
	}
	if st.Nlink > 1 {
		if linked, err := c.linkFirst(ctx, fd, e, st); linked || err != nil {
			return err
		}
	}
	err := c.copyRegular(fd, e, st)
	if st.Nlink > 1 {
		c.links.finish(inode{st.Dev, st.Ino}, err)
	}
	return err
}

// makeNode makes what is neither a directory nor a regular file.
func (c *copier) makeNode(fd *os.File, e entry, st *unix.Stat_t) error {
	dst := int(fd.Fd())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		link, err := readlinkAt(e.dir, e.name)
		if err != nil {
			return err
		}
		return unix.Symlinkat(link, dst, e.target)
	case unix.S_IFSOCK:
		// A socket of somebody else is of no use; an empty file stands for it, as in BuildKit.
		return unix.Mknodat(dst, e.target, unix.S_IFREG|0o600, 0)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return fmt.Errorf("it is an overlay whiteout: %w", errdefs.ErrInvalidArgument)
		}
	}
	return unix.Mknodat(dst, e.target, st.Mode&^0o777|0o600, int(st.Rdev))
}

func readlinkAt(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	return string(buf[:max(n, 0)]), err
}

// linkFirst links a file to the copy of another name it has in this copy; linked is false if this
// is the first, which the caller makes and then tells c.links of.
func (c *copier) linkFirst(ctx context.Context, fd *os.File, e entry, st *unix.Stat_t) (linked bool, err error) {
	first, ok, err := c.links.first(ctx, inode{st.Dev, st.Ino}, strings.TrimPrefix(e.parent.join(e.target), "/"))
	if !ok || err != nil {
		return false, err
	}
	dst := c.dst.Dir
	if e.parent.direct { // no link leads from one filesystem into another, as the overlay and its upper are
		dst = c.dst.upper
	}
	parent, base, err := dst.Parent(first)
	if err != nil {
		return false, err
	}
	defer parent.Close()
	if err := unix.Linkat(int(parent.Fd()), base, int(fd.Fd()), e.target, 0); err != nil {
		return false, fmt.Errorf("linking %s to /%s: %w", e.parent.join(e.target), first, err)
	}
	return true, nil
}

// copyRegular copies a file with all it has.
func (c *copier) copyRegular(fd *os.File, e entry, st *unix.Stat_t) error {
	// O_NONBLOCK: what was a file a moment ago may be a FIFO now.
	src, err := unix.Openat(int(e.dir.Fd()), e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("copying /%s: %w", e.path, err)
	}
	defer unix.Close(src)
	if err := same(src, e, st); err != nil {
		return fmt.Errorf("copying /%s: %w", e.path, err)
	}
	mode := c.modeOf(st)
	dst, err := unix.Openat(int(fd.Fd()), e.target, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
	if err != nil {
		return fmt.Errorf("copying /%s to %s: %w", e.path, e.parent.join(e.target), err)
	}
	err = c.transfer(dst, src, st)
	if err == nil {
		err = same(src, e, st)
	}
	if err == nil {
		err = c.dressFile(dst, src, mode, e, st)
	}
	if err = errors.Join(err, unix.Close(dst)); err != nil {
		return fmt.Errorf("copying /%s to %s: %w", e.path, e.parent.join(e.target), err)
	}
	return nil
}

// same fails if the open file changed since st was taken.
func same(fd int, e entry, st *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Ino != st.Ino || now.Mode != st.Mode || now.Size != st.Size || now.Mtim != st.Mtim || now.Ctim != st.Ctim {
		return fmt.Errorf("/%s changed while it was read: %w", e.path, errdefs.ErrAborted)
	}
	return nil
}

// transfer copies what is in a file by the cheapest means the two filesystems allow. Holes stay such: a layer of a few
// bytes may have one of a terabyte.
func (c *copier) transfer(dst, src int, st *unix.Stat_t) error {
	size := st.Size
	if size > 0 && !c.noClone.Load() {
		if unix.IoctlFileClone(dst, src) == nil {
			return nil
		}
		c.noClone.Store(true)
	}
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	const block = 512 // stat(2), st_blocks
	sparse, hole := st.Blocks*block < size, size
	if sparse {
		hole = 0
	}
	for done := int64(0); done < size; {
		if done == hole {
			var err error
			if done, hole, err = rootfs.SkipHole(dst, src, done, size); err != nil {
				return err
			}
			continue
		}
		n, err := read(src, (*buf)[:min(hole-done, copyBuffer)])
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%d bytes of %d: %w", done, size, io.ErrUnexpectedEOF)
		}
		if err := write(dst, (*buf)[:n]); err != nil {
			return err
		}
		done += int64(n)
	}
	if sparse {
		return os.NewSyscallError("ftruncate", unix.Ftruncate(dst, size))
	}
	return nil
}

func read(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, b); err != unix.EINTR {
			return n, os.NewSyscallError("read", err)
		}
	}
}

func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("write", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// dressFile gives the new file dst owner, mode, times and extended attributes. What it has already, as
// most files do, is not set again.
func (c *copier) dressFile(dst, src int, mode uint32, e entry, st *unix.Stat_t) error {
	var has unix.Stat_t
	if err := unix.Fstat(dst, &has); err != nil {
		return err
	}
	if o := c.ownerOf(st); uint32(o.uid) != has.Uid || uint32(o.gid) != has.Gid {
		if err := unix.Fchown(dst, o.uid, o.gid); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
		has.Mode &= 0o777 // what a change of owner may take away
	}
	if has.Mode&0o7777 != mode {
		if err := unix.Fchmod(dst, mode); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if err := c.copyXattrs(xattrsOf(dst), xattrsOf(src), e); err != nil {
		return err
	}
	if c.mtime != nil {
		return setTimes(dst, "", *c.mtime)
	}
	return utimes(dst, "", st.Atim, st.Mtim)
}

// dress gives what was made in fd under name the owner, mode, time and extended attributes of e.
func (c *copier) dress(fd *os.File, name string, e entry, st *unix.Stat_t) error {
	o := c.ownerOf(st)
	if err := unix.Fchownat(int(fd.Fd()), name, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner of %s: %w", e.parent.join(e.target), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		// name was made by us and is no link, so following it (fchmodat cannot do otherwise) is safe.
		if err := unix.Fchmodat(int(fd.Fd()), name, c.modeOf(st), 0); err != nil {
			return fmt.Errorf("mode of %s: %w", e.parent.join(e.target), err)
		}
	}
	if err := c.copyXattrs(xattrsAt(fd, name), xattrsAt(e.dir, e.name), e); err != nil {
		return err
	}
	return c.setTime(fd, name, st)
}

// ownerOf returns whose the copy is.
func (c *copier) ownerOf(st *unix.Stat_t) owner {
	switch {
	case c.owner != nil:
		return *c.owner
	case c.src.local != nil:
		return owner{} // whoever owns a context, its files are root's, as in BuildKit
	}
	return owner{int(st.Uid), int(st.Gid)}
}

// modeOf returns the permissions of the copy. A mode that was asked for holds for directories too.
func (c *copier) modeOf(st *unix.Stat_t) uint32 {
	switch {
	case c.modes != nil:
		return unixMode(c.modes.Apply(fileMode(st.Mode)))
	case c.mode != nil:
		return *c.mode & 0o7777
	}
	return st.Mode & 0o7777
}

// fileMode turns the mode of a stat into Go's.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	if m&unix.S_IFMT == unix.S_IFDIR {
		mode |= fs.ModeDir
	}
	return mode
}

// unixMode turns the permissions of Go's mode back.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&flag != 0 {
			mode |= bit
		}
	}
	return mode
}

// setTime gives name the time that was asked for, or that of its source.
func (c *copier) setTime(fd *os.File, name string, st *unix.Stat_t) error {
	if c.mtime != nil {
		return setTimes(int(fd.Fd()), name, *c.mtime)
	}
	return utimes(int(fd.Fd()), name, st.Atim, st.Mtim)
}

// setTimes sets both times of name in dir, or of the file dir itself if name is empty.
func setTimes(dir int, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return utimes(dir, name, ts, ts)
}

func utimes(dir int, name string, atime, mtime unix.Timespec) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	if err := unix.UtimesNanoAt(dir, name, []unix.Timespec{atime, mtime}, flags); err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// xattrs are the extended attributes of a file, as the system calls give them.
type xattrs struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
	set  func(name string, value []byte) error
}

func xattrsOf(fd int) xattrs {
	return xattrs{
		list: func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		get:  func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
		set:  func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) },
	}
}

// xattrsAt are those of what has a name in dir and need not be opened. A path through /proc is the only
// way to a link's own attributes from a descriptor.
func xattrsAt(dir *os.File, name string) xattrs {
	path := fdPath(dir, name)
	return xattrs{
		list: func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		get:  func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
		set:  func(name string, value []byte) error { return unix.Lsetxattr(path, name, value, 0) },
	}
}

// copyXattrs copies the extended attributes. One that this filesystem or this process may not
// set is left out with a warning, as in BuildKit.
func (c *copier) copyXattrs(to, from xattrs, e entry) error {
	size, err := from.list(nil)
	if size == 0 || err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes of /%s: %w", e.path, err)
	}
	list := make([]byte, size)
	if size, err = from.list(list); err != nil {
		return fmt.Errorf("extended attributes of /%s: %w", e.path, err)
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for key := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if key == "" || ownedByOverlay(key) || c.src.local != nil && key == "security.capability" {
			continue // BuildKit: giving files of a context to root takes their capabilities
		}
		n, err := from.get(key, value)
		if err == nil {
			err = to.set(key, value[:n])
		}
		if err != nil {
			c.warn("extended attribute %s of /%s: %v", key, e.path, err)
		}
	}
	return nil
}

// ownedByOverlay says whether overlayfs would take the attribute for its own: a context or an
// image must not be able to make opaque directories or redirects.
func ownedByOverlay(key string) bool {
	return strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.")
}
