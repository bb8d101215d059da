package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyOptions change how CopyTree works.
type CopyOptions struct {
	// Owner, unless nil, says whose the copy of a file is, or why there can be none.
	Owner func(uid, gid int) (int, int, error)
}

// CopyTree copies everything below the root of from to the directory dir. Others may change that
// meanwhile: what is outside of it stays as it is, whatever they put in the place of the copies.
// Sockets are left out, and files with several names stay such.
func CopyTree(from *Dir, dir string, o CopyOptions) error {
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	c := &copier{from: from, to: FromFile(to), owner: o.Owner, links: map[[2]uint64]string{}}
	if c.owner == nil {
		c.owner = func(uid, gid int) (int, int, error) { return uid, gid, nil }
	}
	return c.dir(".", to)
}

type copier struct {
	from, to *Dir
	owner    func(uid, gid int) (int, int, error)
	links    map[[2]uint64]string // the first copies of files that have several names
}

// dir copies the directory name to the one that is open.
func (c *copier) dir(name string, to *os.File) error {
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
		if err := c.entry(path.Join(name, d.Name()), to); err != nil {
			return fmt.Errorf("copying %s: %w", path.Join(name, d.Name()), err)
		}
	}
	if err := c.xattrs(f, to); err != nil {
		return err
	}
	return c.dress(to, info)
}

// entry copies name to the open copy of the directory it is in.
func (c *copier) entry(name string, to *os.File) error {
	info, err := c.from.Lstat(name)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	key := [2]uint64{uint64(st.Dev), st.Ino}
	dir, base := int(to.Fd()), path.Base(name)
	if first, ok := c.links[key]; ok {
		return c.link(first, dir, base)
	}
	how := unix.O_PATH
	switch info.Mode().Type() {
	case fs.ModeDir:
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			return err
		}
		made, err := openBelow(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		return errors.Join(c.dir(name, made), made.Close())
	case 0:
		how = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	case fs.ModeSymlink:
		var text string
		if text, err = c.from.Readlink(name); err == nil {
			err = unix.Symlinkat(text, dir, base)
		}
	case fs.ModeNamedPipe, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		err = unix.Mknodat(dir, base, st.Mode, int(st.Rdev))
	default:
		return nil
	}
	if err != nil {
		return err
	}
	made, err := openBelow(dir, base, how)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		err = c.fill(name, made)
	}
	if err == nil {
		err = c.dress(made, info)
	}
	if err == nil && st.Nlink > 1 {
		c.links[key] = name
	}
	return errors.Join(err, made.Close())
}

// openBelow opens what has a name in a directory; it follows no link.
func openBelow(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// link gives the copy first another name.
func (c *copier) link(first string, dir int, base string) error {
	in, err := c.to.OpenFile(path.Dir(first), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Linkat(int(in.Fd()), path.Base(first), dir, base, 0), in.Close())
}

// fill copies what a file has in it, and its attributes.
func (c *copier) fill(name string, dst *os.File) error {
	src, err := c.from.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := copyData(dst, src); err != nil {
		return err
	}
	// The owner before the capabilities: changing it takes them away.
	info, err := src.Stat()
	if err != nil {
		return err
	}
	uid, gid, err := c.ownerOf(info)
	if err != nil {
		return err
	}
	return errors.Join(dst.Chown(uid, gid), c.xattrs(src, dst))
}

// copyData copies what is in a file and leaves its holes holes: a layer of a few bytes may have one of a terabyte.
func copyData(dst, src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		data, hole, err := SkipHole(int(dst.Fd()), int(src.Fd()), at, info.Size())
		if err == nil {
			_, err = io.CopyN(dst, src, hole-data)
		}
		if err != nil {
			return err
		}
		at = hole
	}
	return dst.Truncate(info.Size())
}

// SkipHole sets two files of which one is copied to the other from at, where both are, to the data behind the hole
// there, and returns where it begins and where the next hole does. Both are size if there is none.
func SkipHole(dst, src int, at, size int64) (data, hole int64, err error) {
	data, err = unix.Seek(src, at, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size, size, nil
	case err != nil: // the file system does not tell holes: lseek(2)
		return at, size, nil
	}
	if hole, err = unix.Seek(src, data, unix.SEEK_HOLE); err == nil {
		_, err = unix.Seek(src, data, io.SeekStart)
	}
	if err == nil {
		_, err = unix.Seek(dst, data, io.SeekStart)
	}
	return data, min(hole, size), os.NewSyscallError("lseek", err)
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
func (c *copier) dress(made *os.File, info fs.FileInfo) error {
	st, fd := info.Sys().(*syscall.Stat_t), int(made.Fd())
	if !info.Mode().IsRegular() {
		uid, gid, err := c.ownerOf(info)
		if err == nil {
			err = unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
		}
		if err != nil {
			return err
		}
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd) // O_PATH is enough for that
	if info.Mode().Type() != fs.ModeSymlink {
		if err := unix.Chmod(self, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: made.Name(), Err: err}
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
}

func (c *copier) ownerOf(info fs.FileInfo) (uid, gid int, err error) {
	st := info.Sys().(*syscall.Stat_t)
	return c.owner(int(st.Uid), int(st.Gid))
}
