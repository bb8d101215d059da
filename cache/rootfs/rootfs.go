// Package rootfs opens paths inside an untrusted tree without ever leaving it.
//
// A symbolic link in a container image may be absolute. It then means the root of
// the image, not ours, which os.Root refuses to follow; so we use openat2(2) with
// RESOLVE_IN_ROOT. A Dir stays valid when its tree is renamed.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Dir holds the root of an untrusted tree open. It may be used by many goroutines.
// Paths are relative to the tree whether or not they start with a slash.
type Dir struct {
	f *os.File
}

// Open holds the directory at path, a path of the host, as the root of a tree.
func Open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return FromFile(os.NewFile(uintptr(fd), path)), nil
}

// FromFile makes a Dir of an open directory, which may be an O_PATH or a detached
// mount. The Dir owns f from then on.
func FromFile(f *os.File) *Dir { return &Dir{f: f} }

// Close gives the root back.
func (d *Dir) Close() error { return d.f.Close() }

// Fd returns the descriptor of the root. It is valid until Close.
func (d *Dir) Fd() int { return int(d.f.Fd()) }

// OpenFile opens path with the flags and permissions of open(2), umask included.
// Symbolic links are followed inside the tree, unless flags has O_NOFOLLOW for the last one.
// O_CLOEXEC and O_NOCTTY are added.
func (d *Dir) OpenFile(path string, flags int, perm uint32) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOCTTY),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_PATH != 0 {
		how.Flags &^= unix.O_NOCTTY // openat2 refuses what O_PATH makes senseless
	}
	if flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
		how.Mode = uint64(perm & 0o7777)
	}
	if path == "" {
		path = "."
	}
	fd, err := d.openat2(path, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openat2 asks again where the kernel could not be sure: openat2(2), EAGAIN, says that a
// rename or mount elsewhere makes a ".." unsafe to resolve at that moment.
func (d *Dir) openat2(path string, how *unix.OpenHow) (fd int, err error) {
	const turns = 128
	for range turns {
		fd, err = unix.Openat2(d.Fd(), path, how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return fd, err
}

// ReadFile returns the content of the regular file at path. Something else than a regular file is an
// errdefs.ErrInvalidArgument, a file larger than limit bytes an errdefs.ErrResourceExhausted.
func (d *Dir) ReadFile(path string, limit int64) ([]byte, error) {
	f, err := d.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: larger than %d bytes: %w", path, limit, errdefs.ErrResourceExhausted)
	}
	return data, nil
}

// OpenRegular opens the regular file at path for reading. Something else than a regular file is an
// errdefs.ErrInvalidArgument. It never blocks, as opening a FIFO would.
func (d *Dir) OpenRegular(path string) (*os.File, error) {
	// Opening a device may already have an effect, so look before with O_PATH.
	handle, err := d.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	fi, err := handle.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("reading %s: not a regular file but %s: %w", path, fi.Mode().Type(), errdefs.ErrInvalidArgument)
	}
	return reopen(handle, unix.O_RDONLY|unix.O_NONBLOCK)
}

// reopen opens the very inode that handle, an O_PATH, stands for.
func reopen(handle *os.File, flags int) (*os.File, error) {
	name := fmt.Sprintf("/proc/self/fd/%d", handle.Fd())
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "reopen", Path: handle.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), handle.Name()), nil
}

// Parent opens, as O_PATH, the directory that holds the last component of path, and
// returns that component, which is not followed and need not exist. It is "." for the root
// itself, and for a path that ends in "..", whose directory is then returned.
func (d *Dir) Parent(path string) (parent *os.File, base string, err error) {
	dir, base := split(path)
	parent, err = d.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	return parent, base, err
}

// split cuts the last component off without cleaning the rest: "a/../b" is not "b" when a is a link.
func split(name string) (dir, base string) {
	name = strings.TrimRight(name, "/")
	for strings.HasSuffix(name, "/.") {
		name = strings.TrimRight(strings.TrimSuffix(name, "/."), "/")
	}
	dir, base = path.Split(name)
	switch base {
	case "", ".", "..":
		return "./" + name, "."
	}
	return "./" + dir, base
}

// Lstat describes path without following a symbolic link at its end.
func (d *Dir) Lstat(path string) (fs.FileInfo, error) { return d.stat(path, unix.O_NOFOLLOW) }

// Stat describes what path leads to.
func (d *Dir) Stat(path string) (fs.FileInfo, error) { return d.stat(path, 0) }

func (d *Dir) stat(path string, flags int) (fs.FileInfo, error) {
	f, err := d.OpenFile(path, unix.O_PATH|flags, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	return fi, errors.Join(err, f.Close())
}

// Readlink returns the text of the symbolic link at path. Something else is an errdefs.ErrInvalidArgument.
func (d *Dir) Readlink(path string) (string, error) {
	f, err := d.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err == unix.ENOENT { // readlinkat(2): what the empty path gives for anything but a link
		return "", fmt.Errorf("reading the link %s: %w: %w", path, errdefs.ErrInvalidArgument, unix.EINVAL)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlinkat", Path: path, Err: err}
	}
	return string(buf[:n]), nil
}
