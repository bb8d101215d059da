package op

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// copyFile makes what is no directory; nothing has its name there.
func (c *copier) copyFile(fd *os.File, e entry, st *unix.Stat_t) error {
	dst := int(fd.Fd())
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.copyRegular(fd, e, st)
	case unix.S_IFLNK:
		var link string
		if link, err = readlinkAt(e.dir, e.name); err == nil {
			err = unix.Symlinkat(link, dst, e.target)
		}
	case unix.S_IFSOCK:
		// A socket of somebody else is of no use; an empty file stands for it, as in BuildKit.
		err = unix.Mknodat(dst, e.target, unix.S_IFREG|0o600, 0)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return fmt.Errorf("/%s is an overlay whiteout, which cannot be copied: %w", e.path, errdefs.ErrInvalidArgument)
		}
		err = unix.Mknodat(dst, e.target, st.Mode&^0o777|0o600, int(st.Rdev))
	default:
		err = unix.Mknodat(dst, e.target, st.Mode&^0o777|0o600, int(st.Rdev))
	}
	if err != nil {
		return fmt.Errorf("copying /%s to %s: %w", e.path, e.parent.join(e.target), err)
	}
	return nil
}

func readlinkAt(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	return string(buf[:max(n, 0)]), err
}

// copyRegular copies a file, or links it to the copy of another name it has in this copy.
func (c *copier) copyRegular(fd *os.File, e entry, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := c.links[id]; ok {
			return c.link(first, fd, e)
		}
		c.links[id] = strings.TrimPrefix(e.parent.join(e.target), "/")
	}
	if err := c.copyData(fd, e, st); err != nil {
		return fmt.Errorf("copying /%s to %s: %w", e.path, e.parent.join(e.target), err)
	}
	return nil
}

func (c *copier) link(first string, fd *os.File, e entry) error {
	parent, base, err := c.dst.Parent(first)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Linkat(int(parent.Fd()), base, int(fd.Fd()), e.target, 0); err != nil {
		return fmt.Errorf("linking %s to /%s: %w", e.parent.join(e.target), first, err)
	}
	return nil
}

func (c *copier) copyData(fd *os.File, e entry, st *unix.Stat_t) (err error) {
	// O_NONBLOCK: what was a file a moment ago may be a FIFO now.
	in, err := unix.Openat(int(e.dir.Fd()), e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), e.path)
	defer src.Close()
	if err := same(src, e, st); err != nil {
		return err
	}
	out, err := unix.Openat(int(fd.Fd()), e.target, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), e.target)
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := c.transfer(dst, src, st.Size); err != nil {
		return err
	}
	return same(src, e, st)
}

// same fails if the file changed since st was taken.
func same(f *os.File, e entry, st *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return err
	}
	if now.Ino != st.Ino || now.Mode != st.Mode || now.Size != st.Size || now.Mtim != st.Mtim || now.Ctim != st.Ctim {
		return fmt.Errorf("/%s changed while it was read: %w", e.path, errdefs.ErrAborted)
	}
	return nil
}

// transfer copies size bytes by the cheapest means the two filesystems allow.
func (c *copier) transfer(dst, src *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if !c.cloneUnsupported {
		if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
			return nil
		}
		c.cloneUnsupported = true // ask once per tree; it only costs time
	}
	// io.Copy uses copy_file_range(2), and reads and writes where that cannot be.
	n, err := io.Copy(dst, src)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return err
}

// dress gives what was made in fd under name the owner, mode, time and extended attributes of e.
func (c *copier) dress(fd *os.File, name string, e entry, st *unix.Stat_t) error {
	o := owner{int(st.Uid), int(st.Gid)}
	if c.src.local != nil {
		o = owner{} // whoever owns a context, its files are root's, as in BuildKit
	}
	if c.owner != nil {
		o = *c.owner
	}
	if err := unix.Fchownat(int(fd.Fd()), name, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner of %s: %w", e.parent.join(e.target), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		// name was made by us and is no link, so following it (fchmodat cannot do otherwise) is safe.
		if err := unix.Fchmodat(int(fd.Fd()), name, c.modeOf(st), 0); err != nil {
			return fmt.Errorf("mode of %s: %w", e.parent.join(e.target), err)
		}
	}
	if err := c.copyXattrs(fd, name, e); err != nil {
		return err
	}
	return c.setTime(fd, name, st)
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
	ts := unix.NsecToTimespec(t.UnixNano())
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

// copyXattrs copies the extended attributes. One that this filesystem or this process may not
// set is left out with a warning, as in BuildKit.
func (c *copier) copyXattrs(fd *os.File, name string, e entry) error {
	// A path through /proc is the only way to a link's own attributes from a descriptor.
	from := fmt.Sprintf("/proc/self/fd/%d/%s", e.dir.Fd(), e.name)
	size, err := unix.Llistxattr(from, nil)
	if size == 0 || err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes of /%s: %w", e.path, err)
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(from, list); err != nil {
		return fmt.Errorf("extended attributes of /%s: %w", e.path, err)
	}
	to := fmt.Sprintf("/proc/self/fd/%d/%s", fd.Fd(), name)
	for key := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if key == "" || ownedByOverlay(key) || c.src.local != nil && key == "security.capability" {
			continue // BuildKit: giving files of a context to root takes their capabilities
		}
		if err := copyXattr(to, from, key); err != nil {
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

func copyXattr(to, from, key string) error {
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Lgetxattr(from, key, value)
	if err != nil {
		return err
	}
	return unix.Lsetxattr(to, key, value[:n], 0)
}
