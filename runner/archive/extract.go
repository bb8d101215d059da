package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// ExtractOptions change how Extract works.
type ExtractOptions struct {
	// NoOverwriteDirNonDir refuses to replace a directory by something else and the other
	// way round, with an errdefs.ErrInvalidArgument.
	NoOverwriteDirNonDir bool
	// Owner, unless nil, is given to everything instead of the archive's owners.
	Owner *Owner
	// Harmless leaves out what would give the new owner's rights to whoever made the archive: set-ID bits,
	// capabilities of files, and access of others to device nodes.
	Harmless bool
	// Outside, unless nil, translates the owners in the archive, and Owner, to those that
	// files get.
	Outside func(uid, gid int) (int, int)
}

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Extract unpacks a plain tar archive in the directory dir of root. Symbolic links, those
// of the tree and those of the archive, are followed inside the tree.
func Extract(ctx context.Context, root *rootfs.Dir, dir string, r io.Reader, o ExtractOptions) error {
	x := &extractor{root: root, dir: dir, o: o}
	defer x.close()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return x.finish()
		}
		if err != nil {
			return fmt.Errorf("reading the archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := x.entry(h, content.ContextReader(ctx, tr)); err != nil {
			return fmt.Errorf("unpacking %s: %w", h.Name, err)
		}
	}
}

type extractor struct {
	root *rootfs.Dir
	dir  string
	o    ExtractOptions
	dirs []madeDir // get their times at the end
}

type madeDir struct {
	f     *os.File
	mtime time.Time
}

// keepDirs is how many directories are held open until the end; others get their time
// when they are made.
const keepDirs = 512

func (x *extractor) finish() error {
	var errs []error
	for _, d := range x.dirs {
		errs = append(errs, setTime(d.f, d.mtime))
	}
	return errors.Join(errs...)
}

func (x *extractor) close() {
	for _, d := range x.dirs {
		d.f.Close()
	}
}

// place is the path in the tree of a name in the archive.
func (x *extractor) place(name string) string { return x.dir + path.Clean("/"+name) }

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	}
	for _, name := range []string{h.Name, linkOf(h)} {
		if name != "" && !path.IsAbs(name) && !filepath.IsLocal(name) {
			return fmt.Errorf("invalid entry name %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	parent, base, err := x.parent(x.place(h.Name))
	if err != nil {
		return err
	}
	defer parent.Close()
	exists, err := x.clear(parent, base, h)
	if err != nil || exists && path.Clean("/"+h.Name) == "/" {
		return err
	}
	f, err := x.create(parent, base, h, r, exists)
	if err != nil || f == nil {
		return err
	}
	if err := x.dress(f, h); err != nil {
		f.Close()
		return err
	}
	if h.Typeflag == tar.TypeDir && len(x.dirs) < keepDirs {
		x.dirs = append(x.dirs, madeDir{f, h.ModTime})
		return nil
	}
	return errors.Join(setTime(f, h.ModTime), f.Close())
}

// linkOf is the entry that one is another name of, if it is.
func linkOf(h *tar.Header) string {
	if h.Typeflag == tar.TypeLink {
		return h.Linkname
	}
	return ""
}

// parent opens the directory of a path, and makes it if the archive does not have it.
func (x *extractor) parent(p string) (*os.File, string, error) {
	parent, base, err := x.root.Parent(p)
	if !errors.Is(err, unix.ENOENT) {
		return parent, base, err
	}
	owner := rootfs.MkdirOptions{}
	owner.UID, owner.GID = x.owner(0, 0)
	if err := x.root.MkdirAll(path.Dir(p), 0o755, owner); err != nil {
		return nil, "", err
	}
	return x.root.Parent(p)
}

// clear removes what is in the way. exists says that a directory shall stay.
func (x *extractor) clear(parent *os.File, base string, h *tar.Header) (exists bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	was, is := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	switch {
	case was && is:
		return true, nil
	case x.o.NoOverwriteDirNonDir && was:
		return false, fmt.Errorf("cannot overwrite directory %q with non-directory %q: %w", x.place(h.Name), x.dir, errdefs.ErrInvalidArgument)
	case x.o.NoOverwriteDirNonDir && is:
		return false, fmt.Errorf("cannot overwrite non-directory %q with directory %q: %w", x.place(h.Name), x.dir, errdefs.ErrInvalidArgument)
	case was:
		return false, statefile.RemoveAllAt(int(parent.Fd()), base)
	}
	return false, unix.Unlinkat(int(parent.Fd()), base, 0)
}

// create makes the file. It returns an O_PATH descriptor of it, or nil for a hard link.
func (x *extractor) create(parent *os.File, base string, h *tar.Header, r io.Reader, exists bool) (*os.File, error) {
	at, mode := int(parent.Fd()), x.mode(h)
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if !exists {
			err = unix.Mkdirat(at, base, 0o700)
		}
	case tar.TypeReg, '\x00':
		return x.file(at, base, r)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, at, base)
	case tar.TypeLink:
		return nil, x.link(at, base, h.Linkname)
	case tar.TypeFifo:
		err = unix.Mknodat(at, base, unix.S_IFIFO|mode, 0)
	case tar.TypeChar:
		err = unix.Mknodat(at, base, unix.S_IFCHR|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(at, base, unix.S_IFBLK|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return nil, fmt.Errorf("entry of the unknown type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(at, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

func (x *extractor) file(at int, base string, r io.Reader) (*os.File, error) {
	fd, err := unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), base)
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (x *extractor) link(at int, base, target string) error {
	from, name, err := x.root.Parent(x.place(target))
	if err != nil {
		return err
	}
	defer from.Close()
	return unix.Linkat(int(from.Fd()), name, at, base, 0)
}

// owner is who gets what belongs to a user and group of the archive.
func (x *extractor) owner(uid, gid int) (int, int) {
	if x.o.Owner != nil {
		uid, gid = x.o.Owner.UID, x.o.Owner.GID
	}
	if x.o.Outside != nil {
		return x.o.Outside(uid, gid)
	}
	return uid, gid
}

// mode is the mode of an entry.
func (x *extractor) mode(h *tar.Header) uint32 {
	mode := uint32(h.Mode & 0o7777)
	if !x.o.Harmless {
		return mode
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		return mode & 0o700
	}
	return mode &^ (unix.S_ISUID | unix.S_ISGID)
}

// dress sets owner, mode and attributes. The owner comes first, as changing it takes
// setuid bits and capabilities away.
func (x *extractor) dress(f *os.File, h *tar.Header) error {
	uid, gid := x.owner(h.Uid, h.Gid)
	if err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Chmod(self, x.mode(h)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || x.o.Harmless && name == "security.capability" {
			continue
		}
		if name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if err := unix.Setxattr(self, name, []byte(value), 0); err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func setTime(f *os.File, t time.Time) error {
	mtime, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	return unix.UtimesNanoAt(int(f.Fd()), "", times, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}
