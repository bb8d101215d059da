package statefile

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes path and everything below it, without following a symbolic link. Unlike
// os.RemoveAll it copes with trees that are deeper than a process may have files open, which
// anybody can make with mkdir and chdir in a container.
func RemoveAll(path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY, 0) // os.RemoveAll would wait at a fifo
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return RemoveAllAt(int(parent.Fd()), filepath.Base(path))
}

// RemoveAllAt is RemoveAll for name, a single component, in the open directory dirfd.
func RemoveAllAt(dirfd int, name string) error {
	switch err := unlink(dirfd, name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR:
	default:
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	r := remover{top: -1}
	if err := r.dir(dirfd, name, 0); err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// A remover removes one tree. What lies too deep is moved to the top of the tree first.
type remover struct {
	top int // descriptor of the tree's root
}

// maxOpenDirs bounds the descriptors one remover holds.
const maxOpenDirs = 64

func (r *remover) dir(parent int, name string, depth int) error {
	f, err := openForRemoval(parent, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if depth == 0 {
		r.top = int(f.Fd())
	}
	for {
		n, err := r.contents(f, depth)
		if err != nil {
			return err
		}
		err = unlink(parent, name, unix.AT_REMOVEDIR)
		switch {
		case err == nil, err == unix.ENOENT:
			return nil
		case n > 0 && (err == unix.ENOTEMPTY || err == unix.EEXIST):
			// Names that were moved here, or that readdir left out while we removed. If there were
			// none the directory is not ours any more: somebody else removed it and made another.
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
		default:
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
	}
}

// contents removes what is in f and says how many names there were.
func (r *remover) contents(f *os.File, depth int) (n int, err error) {
	fd := int(f.Fd())
	for {
		entries, err := f.ReadDir(512)
		for _, e := range entries {
			if err := r.entry(fd, e, depth); err != nil {
				return n, err
			}
			n++
		}
		if err == io.EOF || errors.Is(err, unix.ENOENT) { // somebody else has removed f
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (r *remover) entry(fd int, e os.DirEntry, depth int) error {
	name := e.Name()
	switch {
	case !e.IsDir():
		if err := unlink(fd, name, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
		return nil
	case depth >= maxOpenDirs:
		up := ".removed-" + strconv.FormatUint(rand.Uint64(), 36)
		if err := unix.Renameat2(fd, name, r.top, up, unix.RENAME_NOREPLACE); err != nil && err != unix.ENOENT {
			return &os.LinkError{Op: "rename", Old: name, New: up, Err: err}
		}
		return nil
	default:
		return r.dir(fd, name, depth+1)
	}
}

// openForRemoval opens a directory so that it can be emptied. Without privileges its owner may
// have to allow himself that first.
func openForRemoval(parent int, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent, name, flags, 0)
	if err == nil && os.Geteuid() != 0 {
		_ = unix.Fchmod(fd, 0o700) // the unlinks below say what is wrong
	}
	if err == unix.EACCES {
		// Not a symbolic link: unlink said EISDIR, or readdir that it is a directory.
		if unix.Fchmodat(parent, name, 0o700, 0) == nil {
			fd, err = unix.Openat(parent, name, flags, 0)
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func unlink(dirfd int, name string, flags int) error {
	for {
		if err := unix.Unlinkat(dirfd, name, flags); err != unix.EINTR {
			return err
		}
	}
}
