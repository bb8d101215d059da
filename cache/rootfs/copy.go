package rootfs

import (
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

// CopyTree copies everything below the root of from to the directory dir, which only root
// can change meanwhile. Sockets are left out.
func CopyTree(from *Dir, dir string) error {
	return copyDir(from, ".", dir)
}

func copyDir(from *Dir, name, to string) error {
	f, err := from.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	info, e := f.Stat()
	f.Close()
	if err := errors.Join(err, e); err != nil {
		return err
	}
	for _, d := range entries {
		if err := copyEntry(from, path.Join(name, d.Name()), filepath.Join(to, d.Name())); err != nil {
			return err
		}
	}
	return dress(to, info)
}

func copyEntry(from *Dir, name, to string) error {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	switch st := info.Sys().(*syscall.Stat_t); info.Mode().Type() {
	case fs.ModeDir:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return copyDir(from, name, to)
	case 0:
		err = copyFile(from, name, to)
	case fs.ModeSymlink:
		var text string
		if text, err = from.Readlink(name); err == nil {
			err = os.Symlink(text, to)
		}
	case fs.ModeNamedPipe, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return dress(to, info)
}

func copyFile(from *Dir, name, to string) error {
	src, err := from.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
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
		st := info.Sys().(*syscall.Stat_t)
		err = errors.Join(dst.Chown(int(st.Uid), int(st.Gid)), copyXattrs(src, dst))
	}
	return errors.Join(err, dst.Close())
}

// copyXattrs copies extended attributes, file capabilities among them.
func copyXattrs(src, dst *os.File) error {
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(src.Fd()), list)
	if err != nil {
		return nil // the file system has none
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.") {
			continue
		}
		k, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(int(dst.Fd()), name, value[:k], 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// dress gives a copy the owner (files have theirs), mode and time of the original.
func dress(to string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() {
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
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
