package op

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// An extractor unpacks the archive of an ADD as docker does: names of whiteouts have no
// meaning, and what is in the way is replaced, unless both are directories.
type extractor struct {
	root  *rootfs.Dir
	owner *owner // nil: as the archive says
	warn  func(format string, args ...any)

	dirs []extractedDir
}

// An extractedDir gets its time when nothing is made in it any more.
type extractedDir struct {
	path  string
	mtime time.Time
}

func (x *extractor) extract(ctx context.Context, r *tar.Reader) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return x.timeDirs()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := x.entry(ctx, h, r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func (x *extractor) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	// The directory that is unpacked into stays as it is, as in docker, whatever the archive says it is.
	if h.Typeflag == tar.TypeXGlobalHeader || path.Clean(h.Name) == "." {
		return nil
	}
	if strings.ContainsRune(h.Name, 0) {
		return fmt.Errorf("a name with a zero byte: %w", errdefs.ErrInvalidArgument)
	}
	// What leads up ends at the root of the archive, as in docker, which unpacks in a chroot there.
	name := strings.TrimPrefix(path.Join("/", h.Name), "/")
	if err := x.root.MkdirAll(parentPath(name), 0o755, rootfs.MkdirOptions{UID: -1, GID: -1}); err != nil {
		return err
	}
	parent, base, err := x.root.Parent(name)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := x.clear(parent, base, h.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	if err := x.create(ctx, parent, base, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // the same file as before
	}
	return x.dress(parent, base, name, h)
}

// clear removes what is in the way of an entry.
func (x *extractor) clear(parent *os.File, base string, isDir bool) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	wasDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case wasDir && isDir:
		return nil
	case base == ".":
		return fmt.Errorf("the root is no directory in the archive: %w", errdefs.ErrInvalidArgument)
	}
	return statefile.RemoveAllAt(int(parent.Fd()), base)
}

// create makes the entry, without its metadata.
func (x *extractor) create(ctx context.Context, parent *os.File, base string, h *tar.Header, r io.Reader) error {
	fd := int(parent.Fd())
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return writeNew(ctx, parent, base, h, r)
	case tar.TypeDir:
		err := unix.Mkdirat(fd, base, 0o700)
		if err == unix.EEXIST {
			return nil
		}
		return err
	case tar.TypeSymlink:
		return unix.Symlinkat(h.Linkname, fd, base)
	case tar.TypeLink:
		return x.link(parent, base, h.Linkname)
	case tar.TypeFifo:
		return unix.Mknodat(fd, base, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return fmt.Errorf("an overlay whiteout: %w", errdefs.ErrInvalidArgument)
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return unix.Mknodat(fd, base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	}
	return fmt.Errorf("entry of the type %q: %w", h.Typeflag, errdefs.ErrNotImplemented)
}

func writeNew(ctx context.Context, parent *os.File, base string, h *tar.Header, r io.Reader) (err error) {
	const most = 1 << 40 // a sparse file of a few bytes may claim any size, and is read to its end
	if h.Size > most {
		return fmt.Errorf("a file of %d bytes: %w", h.Size, errdefs.ErrResourceExhausted)
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	// A hole at the end is made by the size alone.
	if err := f.Truncate(h.Size); err != nil {
		return err
	}
	buf := make([]byte, min(h.Size, int64(len(zeros))))
	for done := int64(0); done < h.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), h.Size-done)])
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], done); err != nil {
				return err
			}
		}
		done += int64(n)
	}
	return nil
}

// zeros is what a hole of a sparse file is read as.
var zeros [64 << 10]byte

// link makes a hard link to another entry. A symbolic link there is linked to, not followed.
func (x *extractor) link(parent *os.File, base, target string) error {
	dir, name, err := x.root.Parent(path.Join("/", target))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Linkat(int(dir.Fd()), name, int(parent.Fd()), base, 0)
}

// dress gives an entry its metadata.
func (x *extractor) dress(parent *os.File, base, name string, h *tar.Header) error {
	fd := int(parent.Fd())
	o := owner{h.Uid, h.Gid}
	if x.owner != nil {
		o = *x.owner
	}
	if err := unix.Fchownat(fd, base, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("its owner: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(fd, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("its mode: %w", err)
		}
	}
	x.xattrs(parent, base, h)
	if h.Typeflag == tar.TypeDir {
		x.dirs = append(x.dirs, extractedDir{name, h.ModTime})
		return nil
	}
	return setTimes(fd, base, h.ModTime)
}

// xattrs sets what can be set; docker makes an effort, no more, for ADD.
func (x *extractor) xattrs(parent *os.File, base string, h *tar.Header) {
	to := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), base)
	for record, value := range h.PAXRecords {
		key, ok := strings.CutPrefix(record, "SCHILY.xattr.")
		if !ok || ownedByOverlay(key) {
			continue
		}
		if err := unix.Lsetxattr(to, key, []byte(value), 0); err != nil {
			x.warn("extended attribute %s of %s: %v", key, h.Name, err)
		}
	}
}

// timeDirs sets the times of directories, innermost last made first.
func (x *extractor) timeDirs() error {
	for _, d := range slices.Backward(x.dirs) {
		parent, base, err := x.root.Parent(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a later entry replaced it
		}
		if err != nil {
			return err
		}
		err = setTimes(int(parent.Fd()), base, d.mtime)
		if cerr := parent.Close(); err == nil {
			err = cerr
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
