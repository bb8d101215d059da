package op

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A detached is a mount without a place, which a container gets as a file descriptor: nothing
// of a build is ever mounted where the host sees it, so nothing has to be unmounted either.
type detached struct {
	*os.File
	file bool // its root is no directory
}

// detach returns a mount of what path leads to in dir, whose links stay inside. whole, unless
// nil, is the mount that dir is the root of, when it has no place itself.
func detach(dir *rootfs.Dir, path string, whole *os.File) (detached, error) {
	f, err := dir.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return detached{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return detached{}, err
	}
	fd, err := openTree(f)
	if errors.Is(err, unix.EINVAL) && whole != nil {
		// Before Linux 6.15 a mount without a place cannot be taken apart, fs/namespace.c.
		err = placed(whole, func() (err error) {
			fd, err = openTree(f)
			return err
		})
	}
	if err != nil {
		return detached{}, fmt.Errorf("mounting %s: %w", path, err)
	}
	return detached{os.NewFile(uintptr(fd), path), !fi.IsDir()}, nil
}

func openTree(f *os.File) (int, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	return fd, nil
}

// placed calls fn while the mount m has a place. It had none before and has none afterwards: m is then a
// copy of it, since a mount that was taken from its place cannot be given another.
func placed(m *os.File, fn func() error) (err error) {
	dir, err := os.MkdirTemp("", "teu-mount-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	defer func() { err = errors.Join(err, mount.Unmount(dir)) }()
	if err := fn(); err != nil {
		return err
	}
	again, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(again)
	return os.NewSyscallError("dup3", unix.Dup3(again, int(m.Fd()), unix.O_CLOEXEC))
}

// newTmpfs returns a tmpfs that is mounted nowhere.
func newTmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen tmpfs", err)
	}
	defer unix.Close(fs)
	for _, opt := range [][2]string{{"mode", "0711"}, {"size", "64m"}} {
		if err := unix.FsconfigSetString(fs, opt[0], opt[1]); err != nil {
			return nil, os.NewSyscallError("fsconfig tmpfs", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig tmpfs", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, os.NewSyscallError("fsmount tmpfs", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}
