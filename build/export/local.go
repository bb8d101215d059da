package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// WriteDir copies the filesystem root into the directory dir, which is made if needed. Files that
// are there are replaced, others stay. Everything belongs to the caller, as with
// `docker build -o type=local`; a file with several names is one there too. Unlike docker, devices
// are left out, as they would need privileges, and so are set-user-ID bits and capabilities: what an
// image has is not to run with the rights of whoever builds it.
// Links that are in dir already are not followed out of it.
func WriteDir(ctx context.Context, dir string, root *rootfs.Dir, o TreeOptions) (err error) {
	if err := os.MkdirAll(path.Join(dir, o.Prefix), 0o755); err != nil {
		return err
	}
	dst, err := rootfs.Open(path.Join(dir, o.Prefix))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	c := copier{dst: dst, o: o, links: map[inode]string{}}
	if err := walk(ctx, root, func(e entry) error { return c.copy(ctx, e) }); err != nil {
		return fmt.Errorf("writing to %s: %w", dir, err)
	}
	// Directories last and from below: files were put into them, which their modes may not allow.
	for _, d := range slices.Backward(c.dirs) {
		if err := c.finish(d); err != nil {
			return fmt.Errorf("writing to %s: %w", dir, err)
		}
	}
	return nil
}

type copier struct {
	dst   *rootfs.Dir
	o     TreeOptions
	dirs  []entry
	links map[inode]string // first path of a file with several names
}

func (c *copier) copy(ctx context.Context, e entry) error {
	if e.path == "." {
		return nil
	}
	if kind := e.kind(); kind == unix.S_IFCHR || kind == unix.S_IFBLK || kind == unix.S_IFSOCK {
		return nil
	}
	if _, err := c.o.take(e); err != nil {
		return err
	}
	parent, base, err := c.dst.Parent(e.path)
	if err != nil {
		return err
	}
	defer parent.Close()
	dir := int(parent.Fd())
	if first, ok := c.links[e.inode()]; ok && e.kind() != unix.S_IFDIR {
		return c.link(dir, base, e, first)
	}
	switch e.kind() {
	case unix.S_IFDIR:
		c.dirs = append(c.dirs, e)
		return c.mkdir(dir, base, e)
	case unix.S_IFLNK:
		target, err := e.readlink()
		if err != nil {
			return err
		}
		if err := vacate(dir, base, e.path); err != nil {
			return err
		}
		if err := unix.Symlinkat(target, dir, base); err != nil {
			return fmt.Errorf("symlink %s: %w", e.path, err)
		}
	case unix.S_IFIFO:
		if err := vacate(dir, base, e.path); err != nil {
			return err
		}
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|e.permissions(), 0); err != nil {
			return fmt.Errorf("mkfifo %s: %w", e.path, err)
		}
		if err := unix.Fchmodat(dir, base, e.permissions(), 0); err != nil { // whatever the umask is
			return fmt.Errorf("chmod %s: %w", e.path, err)
		}
	case unix.S_IFREG:
		if err := c.file(ctx, dir, base, e); err != nil {
			return err
		}
	}
	if e.stat.Nlink > 1 {
		c.links[e.inode()] = e.path
	}
	return c.times(e)
}

// link gives the file at the path first another name.
func (c *copier) link(dir int, base string, e entry, first string) error {
	parent, old, err := c.dst.Parent(first)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := vacate(dir, base, e.path); err != nil {
		return err
	}
	if err := unix.Linkat(int(parent.Fd()), old, dir, base, 0); err != nil {
		return fmt.Errorf("linking %s to %s: %w", e.path, first, err)
	}
	return nil
}

// finish gives a directory the mode and the time that it has in the image.
func (c *copier) finish(e entry) error {
	parent, base, err := c.dst.Parent(e.path)
	if err != nil {
		return err
	}
	defer parent.Close()
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, e.permissions()); err != nil {
		return fmt.Errorf("chmod %s: %w", e.path, err)
	}
	return c.times(e)
}

// mkdir makes a directory, or takes the one that is there.
func (c *copier) mkdir(dir int, base string, e entry) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := vacate(dir, base, e.path); err != nil {
		return err
	}
	// Writable for us, whatever it is in the image, or nothing could be put into it.
	if err := unix.Mkdirat(dir, base, e.stat.Mode&0o777|0o700); err != nil {
		return fmt.Errorf("mkdir %s: %w", e.path, err)
	}
	return nil
}

func (c *copier) file(ctx context.Context, dir int, base string, e entry) (err error) {
	src, err := e.open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := create(dir, base, e.path, e.stat.Mode&0o777|0o200)
	if err != nil {
		return err
	}
	err = copyFile(ctx, dst, src)
	if err := errors.Join(err, unix.Fchmod(int(dst.Fd()), e.permissions()), dst.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", e.path, err)
	}
	return nil
}

// copyFile copies in pieces, each by the kernel.
func copyFile(ctx context.Context, dst, src *os.File) error {
	const piece = 256 << 20
	for n := int64(piece); n == piece; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if n, err = io.CopyN(dst, src, piece); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// create makes a file in the place of what stands there.
func create(dir int, base, path string, mode uint32) (*os.File, error) {
	if err := vacate(dir, base, path); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// vacate removes what stands where path goes: a whole directory if path is none, as docker does.
func vacate(dir int, base, path string) error {
	if err := statefile.RemoveAllAt(dir, base); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return nil
}

func (c *copier) times(e entry) error {
	parent, base, err := c.dst.Parent(e.path)
	if err != nil {
		return err
	}
	defer parent.Close()
	t, err := unix.TimeToTimespec(e.mtime(c.o.Epoch))
	if err != nil {
		return fmt.Errorf("the time of %s: %w", e.path, err)
	}
	if err := unix.UtimesNanoAt(int(parent.Fd()), base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting the time of %s: %w", e.path, err)
	}
	return nil
}
