package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MkdirOptions say what the directories made by MkdirAll are like.
type MkdirOptions struct {
	UID, GID int       // -1 leaves it to the kernel
	Mtime    time.Time // zero: now
}

// MkdirAll makes the directory path and the missing ones above it, following symbolic links
// inside the tree, those too that lead to something missing. Directories that exist are left
// alone. perm is not reduced by the umask.
func (d *Dir) MkdirAll(path string, perm uint32, o MkdirOptions) error {
	if f, err := d.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		return f.Close() // the usual case costs one call
	}
	return d.mkdirAll(path, perm, o, 0)
}

// mkdirAll walks path from the root; links counts the symbolic links followed so far.
//
// The prefix walked is resolved anew in each step, from the root, so whatever is swapped
// meanwhile, each step stays in the tree. (A held descriptor and ".." could leave it.)
func (d *Dir) mkdirAll(path string, perm uint32, o MkdirOptions, links int) error {
	done := "."
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if part == "" || part == "." {
			continue
		}
		next := done + "/" + part
		err := d.mkdir(next, perm, o)
		if errors.Is(err, unix.EEXIST) {
			err = d.isDir(next)
		}
		if errors.Is(err, fs.ErrNotExist) { // a link to something missing
			const most = 40 // as the kernel's own limit, path_resolution(7)
			if links++; links > most {
				return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ELOOP}
			}
			target, lerr := d.Readlink(next)
			if lerr != nil {
				return errors.Join(err, lerr)
			}
			if !strings.HasPrefix(target, "/") {
				target = done + "/" + target
			}
			rest := strings.Join(parts[i+1:], "/")
			return d.mkdirAll(target+"/"+rest, perm, o, links)
		}
		if err != nil {
			return err
		}
		done = next
	}
	return nil
}

// isDir returns nil if path leads to a directory.
func (d *Dir) isDir(path string) error {
	f, err := d.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// mkdir makes one directory; an existing entry of any kind is an EEXIST.
func (d *Dir) mkdir(path string, perm uint32, o MkdirOptions) error {
	parent, base, err := d.Parent(path)
	if err != nil {
		return err
	}
	defer parent.Close()
	if base == "." {
		return unix.EEXIST
	}
	// Closed until it has its owner, so that nobody it is not meant for gets in.
	if err := unix.Mkdirat(int(parent.Fd()), base, 0o700); err != nil {
		return &fs.PathError{Op: "mkdirat", Path: path, Err: err}
	}
	return d.dress(parent, base, path, perm, o)
}

// dress gives a directory just made its owner, mode and time, through a descriptor of it.
func (d *Dir) dress(parent *os.File, base, path string, perm uint32, o MkdirOptions) error {
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "openat", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, o.UID, o.GID); err != nil {
		return fmt.Errorf("owner of %s: %w", path, err)
	}
	if err := unix.Fchmod(fd, perm&0o7777); err != nil {
		return fmt.Errorf("mode of %s: %w", path, err)
	}
	if o.Mtime.IsZero() {
		return nil
	}
	t, err := unix.TimeToTimespec(o.Mtime)
	if err == nil {
		err = unix.UtimesNanoAt(fd, "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("time of %s: %w", path, err)
	}
	return nil
}
