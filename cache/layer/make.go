package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/teu-dev/teu/cache/statefile"
	"golang.org/x/sys/unix"
)

// create calls make, which fails with EEXIST if the name is taken; then what has the name is
// removed and make is called again.
func (a *applier) create(at place, what string, make func() error) error {
	err := make()
	if errors.Is(err, unix.EEXIST) {
		if err := a.clear(at); err != nil {
			return err
		}
		err = make()
	}
	if err != nil {
		return &os.PathError{Op: what, Path: at.base, Err: err}
	}
	return nil
}

// clear removes what has the name, whatever it is.
func (a *applier) clear(at place) error {
	st, err := statAt(at.dir.fd, at.base)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if err := statefile.RemoveAllAt(at.dir.fd, at.base); err != nil {
		return err
	}
	if kind == unix.S_IFDIR || kind == unix.S_IFLNK {
		a.stale = true
	}
	return a.replace(at.path())
}

// replace remembers that nothing of the layers below shows at p or inside it any more.
func (a *applier) replace(p string) error {
	if a.replaced[p] {
		return nil
	}
	a.replaced[p] = true
	return a.remember(p)
}

// mkdir makes a directory at a free name or in the place of a whiteout. If the layer already had
// something there, the directory does not show what layers below have in it.
func (a *applier) mkdir(at place) error {
	p := at.path()
	if err := a.create(at, "mkdirat", func() error { return unix.Mkdirat(at.dir.fd, at.base, 0o755) }); err != nil {
		return err
	}
	if err := unix.Fchmodat(at.dir.fd, at.base, 0o755, 0); err != nil { // the umask
		return &os.PathError{Op: "fchmodat", Path: p, Err: err}
	}
	delete(a.acls, p)
	if !a.replaced[p] {
		return nil
	}
	return a.setOpaque(fdPath(at.dir.fd, at.base))
}

func (a *applier) directory(at place, e *entry) error {
	st, err := statAt(at.dir.fd, at.base)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := a.mkdir(at); err != nil {
			return err
		}
		a.res.Size += 4096 // as differ counts them: a layer that was loaded has the size of one that was built
	}
	fd, err := openInside(at.dir.fd, at.base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return a.dressDir(fd, at.path(), e)
}

// rootEntry gives the root of the layer what an entry "./" says.
func (a *applier) rootEntry(e *entry) error { return a.dressDir(a.root, "", e) }

func (a *applier) dressDir(fd int, path string, e *entry) error {
	if i := slices.IndexFunc(e.xattrs, isDefaultACL); i >= 0 {
		a.acls[path] = e.xattrs[i].value
		if err := a.remember(e.xattrs[i].value); err != nil {
			return err
		}
		e.xattrs = slices.Delete(e.xattrs, i, i+1)
	}
	if err := a.dress(fd, e); err != nil {
		return err
	}
	delete(a.implicit, path)
	return a.setTime(path, e.mtime)
}

// setTime remembers the time of a directory, which is set at the end.
func (a *applier) setTime(path string, t unix.Timespec) error {
	_, known := a.times[path]
	a.times[path] = t
	if known {
		return nil
	}
	return a.remember(path)
}

func (a *applier) regular(ctx context.Context, at place, e *entry) error {
	fd := -1
	err := a.create(at, "openat", func() (err error) {
		fd, err = unix.Openat(at.dir.fd, at.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = a.content(ctx, fd, e)
	if err == nil {
		err = a.dress(fd, e)
	}
	if err == nil {
		err = futimens(fd, e.atime, e.mtime)
	}
	if cerr := unix.Close(fd); err == nil && cerr != nil {
		err = fmt.Errorf("closing: %w", cerr)
	}
	a.res.Size += (e.size + 4095) &^ 4095
	return err
}

// content copies the bytes of the current entry to fd. Zeros of a sparse file become a hole.
func (a *applier) content(ctx context.Context, fd int, e *entry) error {
	var hole bool
	for done := int64(0); done < e.size; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(a.tr, a.buf[:min(int64(len(a.buf)), e.size-done)])
		if err != nil {
			return tarError(noEOF(err))
		}
		done += int64(n)
		if hole = e.sparse && isZero(a.buf[:n]); hole {
			if _, err := unix.Seek(fd, int64(n), io.SeekCurrent); err != nil {
				return os.NewSyscallError("lseek", err)
			}
			continue
		}
		if err := writeAll(fd, a.buf[:n]); err != nil {
			return os.NewSyscallError("write", err)
		}
	}
	if hole {
		return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, e.size))
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// dress gives an open file or directory its owner, attributes and mode. The order matters:
// a change of owner takes away setuid bits and capabilities, and a mode without write
// permission keeps those without privileges from setting attributes.
func (a *applier) dress(fd int, e *entry) error {
	if !a.o.NoChown {
		if err := unix.Fchown(fd, e.uid, e.gid); err != nil {
			return fmt.Errorf("fchown %d:%d: %w", e.uid, e.gid, err)
		}
	}
	if len(e.xattrs) > 0 {
		err := a.setXattrs(e, setterOf(fd))
		if err != nil {
			return err
		}
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, e.mode))
}

func (a *applier) symlink(at place, e *entry) error {
	if err := a.create(at, "symlinkat", func() error { return unix.Symlinkat(e.link, at.dir.fd, at.base) }); err != nil {
		return err
	}
	return a.dressAt(at, e)
}

func (a *applier) node(at place, e *entry) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[e.kind]
	err := a.create(at, "mknodat", func() error { return unix.Mknodat(at.dir.fd, at.base, mode|0o600, e.dev) })
	if errors.Is(err, unix.EPERM) && e.kind != tar.TypeFifo {
		// In a user namespace; runtimes bind the few devices that containers need.
		a.warn("%s: device %d:%d: %v", shorten(e.path), unix.Major(uint64(e.dev)), unix.Minor(uint64(e.dev)), err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.dressAt(at, e); err != nil {
		return err
	}
	// The call follows symbolic links, but the device was made above and nobody else is here.
	if err := unix.Fchmodat(at.dir.fd, at.base, e.mode, 0); err != nil {
		return &os.PathError{Op: "fchmodat", Path: at.base, Err: err}
	}
	return nil
}

// dressAt is dress for what must not be opened, and sets the times as well. The caller sets
// the mode, which a symbolic link does not have.
func (a *applier) dressAt(at place, e *entry) error {
	if !a.o.NoChown {
		if err := unix.Fchownat(at.dir.fd, at.base, e.uid, e.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("fchownat %d:%d: %w", e.uid, e.gid, err)
		}
	}
	name := fdPath(at.dir.fd, at.base)
	err := a.setXattrs(e, func(attr string, value []byte) error { return unix.Lsetxattr(name, attr, value, 0) })
	if err != nil {
		return err
	}
	times := []unix.Timespec{e.atime, e.mtime}
	if err := unix.UtimesNanoAt(at.dir.fd, at.base, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: at.base, Err: err}
	}
	return nil
}
