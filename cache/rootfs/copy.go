package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyOptions change how CopyTree works.
type CopyOptions struct {
	// Owner, unless nil, says whose the copy of a file is, or why there can be none.
	Owner func(uid, gid int) (int, int, error)
}

// CopyTree copies everything below the root of from to the directory dir, which only root
// can change meanwhile. Sockets are left out, and files with several names stay such.
func CopyTree(from *Dir, dir string, o CopyOptions) error {
	c := &copier{from: from, owner: o.Owner, links: map[[2]uint64]string{}}
	if c.owner == nil {
		c.owner = func(uid, gid int) (int, int, error) { return uid, gid, nil }
	}
	return c.dir(".", dir)
}

type copier struct {
	from  *Dir
	owner func(uid, gid int) (int, int, error)
	links map[[2]uint64]string // the copies of files that have several names
}

func (c *copier) dir(name, to string) error {
	f, err := c.from.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	info, e := f.Stat()
	if err := errors.Join(err, e); err != nil {
		return err
	}
	for _, d := range entries {
		if err := c.entry(path.Join(name, d.Name()), filepath.Join(to, d.Name())); err != nil {
			return err
		}
	}
	dst, err := os.Open(to)
	if err != nil {
		return err
	}
	if err := errors.Join(c.xattrs(f, dst), dst.Close()); err != nil {
		return err
	}
	return c.dress(to, info)
}

func (c *copier) entry(name, to string) error {
	info, err := c.from.Lstat(name)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	key := [2]uint64{uint64(st.Dev), st.Ino}
	if first, ok := c.links[key]; ok {
		return os.Link(first, to)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return c.dir(name, to)
	case 0:
		err = c.file(name, to)
	case fs.ModeSymlink:
		var text string
		if text, err = c.from.Readlink(name); err == nil {
			err = os.Symlink(text, to)
		}
	case fs.ModeNamedPipe, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	default:
		return nil
	}
	if err == nil {
		err = c.dress(to, info)
	}
	if err == nil && st.Nlink > 1 {
		c.links[key] = to
	}
	return err
}

func (c *copier) file(name, to string) error {
	src, err := c.from.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	// The owner before the capabilities: changing it takes them away.
	info, err := src.Stat()
	if err == nil {
		var uid, gid int
		if uid, gid, err = c.ownerOf(info); err == nil {
			err = errors.Join(dst.Chown(uid, gid), c.xattrs(src, dst))
		}
	}
	return errors.Join(err, dst.Close())
}

// xattrs copies extended attributes, file capabilities among them.
func (c *copier) xattrs(src, dst *os.File) error {
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(src.Fd()), list)
	if err != nil {
		return nil // the file system has none
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "system.posix_acl_") && !strings.HasPrefix(name, "user.") ||
			strings.HasPrefix(name, "user.overlay.") { // the rest is the host's, or of how it is stored
			continue
		}
		k, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			continue
		}
		if strings.HasPrefix(name, "system.posix_acl_") {
			if err := c.translateACL(value[:k]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := unix.Fsetxattr(int(dst.Fd()), name, value[:k], 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// translateACL gives the users and groups an access control list names their owners' translation:
// linux/posix_acl_xattr.h, a version of 4 bytes and entries of a tag, permissions and an ID.
func (c *copier) translateACL(acl []byte) error {
	const tagUser, tagGroup = 2, 8
	for e := acl[min(4, len(acl)):]; len(e) >= 8; e = e[8:] {
		tag, id := binary.LittleEndian.Uint16(e), int(binary.LittleEndian.Uint32(e[4:]))
		var err error
		switch tag {
		case tagUser:
			id, _, err = c.owner(id, 0)
		case tagGroup:
			_, id, err = c.owner(0, id)
		default:
			continue
		}
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(e[4:], uint32(id))
	}
	return nil
}

// dress gives a copy the owner (files have theirs), mode and time of the original.
func (c *copier) dress(to string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() {
		uid, gid, err := c.ownerOf(info)
		if err == nil {
			err = os.Lchown(to, uid, gid)
		}
		if err != nil {
			return err
		}
	}
	if info.Mode().Type() != fs.ModeSymlink {
		if err := unix.Fchmodat(unix.AT_FDCWD, to, st.Mode&0o7777, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}

func (c *copier) ownerOf(info fs.FileInfo) (uid, gid int, err error) {
	st := info.Sys().(*syscall.Stat_t)
	return c.owner(int(st.Uid), int(st.Gid))
}
