// Package archive reads and writes tar archives of files inside an untrusted tree: the
// root filesystem of a container, which may run and change its files meanwhile.
//
// Every path is opened below the root by [rootfs.Dir] or relative to a held descriptor, so
// whatever is swapped for a symbolic link, nothing outside the tree is read or written
// (CVE-2018-15664, CVE-2019-14271).
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
)

// Write writes the file or directory at p, which is not followed if it is a symbolic
// link, and everything below it, as entries called name and name/.... An empty name
// leaves out the entry of the directory itself. Sockets are left out, and so is what is
// below the kernel's own file systems and /dev.
func Write(ctx context.Context, w io.Writer, root *rootfs.Dir, p, name string, o WriteOptions) error {
	f, err := root.OpenFile(p, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	a := &writer{o: o, tw: tar.NewWriter(w), links: map[[2]uint64]string{}, buf: make([]byte, 256<<10)}
	if err := a.entry(ctx, f, name); err != nil {
		return err
	}
	return a.tw.Close()
}

// WriteOptions change how Write works.
type WriteOptions struct {
	// Owner, unless nil, translates the owners of files to those of the archive.
	Owner func(uid, gid int) (int, int)
}

type writer struct {
	o     WriteOptions
	tw    *tar.Writer
	links map[[2]uint64]string // first names of files that have several
	buf   []byte
}

// entry writes the file behind an O_PATH descriptor, which it closes.
func (a *writer) entry(ctx context.Context, f *os.File, name string) error {
	defer f.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	h, err := a.header(f, name, &st)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag == tar.TypeReg {
		return a.file(ctx, f, h)
	}
	if name != "" {
		if err := a.tw.WriteHeader(h); err != nil {
			return err
		}
	}
	if kind == unix.S_IFDIR && !virtual(f) {
		return a.dir(ctx, f, name)
	}
	return nil
}

// virtual says whether a directory is of a file system that has no files of its own.
func virtual(f *os.File) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil {
		return false
	}
	return slices.Contains([]int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC,
		unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, mqueueMagic, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC}, int64(fs.Type)) || isDev(f, int64(fs.Type))
}

const mqueueMagic = 0x19800202 // linux/magic.h has no name for it; ipc/mqueue.c

// isDev knows the /dev of a container: a tmpfs with a null device in it.
func isDev(f *os.File, kind int64) bool {
	var st unix.Stat_t
	return kind == unix.TMPFS_MAGIC && unix.Fstatat(int(f.Fd()), "null", &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFCHR
}

func (a *writer) dir(ctx context.Context, f *os.File, name string) error {
	d, err := reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	f.Close() // one descriptor for each level is enough: a tree can be as deep as its maker likes
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		fd, err := unix.Openat(int(d.Fd()), n, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue // removed meanwhile
		}
		if err != nil {
			return &os.PathError{Op: "openat", Path: path.Join(name, n), Err: err}
		}
		below := n
		if name != "" {
			below = strings.TrimSuffix(name, "/") + "/" + n
		}
		if len(below) >= unix.PathMax { // nobody could unpack it, and a deeper one takes more descriptors than there are
			unix.Close(fd)
			return fmt.Errorf("%.200s...: a name of %d bytes: %w", below, len(below), errdefs.ErrInvalidArgument)
		}
		if err := a.entry(ctx, os.NewFile(uintptr(fd), n), below); err != nil {
			return err
		}
	}
	return nil
}

func (a *writer) header(f *os.File, name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), PAXRecords: xattrs(f), Format: tar.FormatPAX,
	}
	if a.o.Owner != nil {
		h.Uid, h.Gid = a.o.Owner(h.Uid, h.Gid)
	}
	kind := st.Mode & unix.S_IFMT
	if id := [2]uint64{st.Dev, st.Ino}; kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := a.links[id]; ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return h, nil
		}
		a.links[id] = name
	}
	switch kind {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		link, err := readlink(f)
		h.Typeflag, h.Linkname = tar.TypeSymlink, link
		return h, err
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	}
	return h, nil
}

// file writes as many bytes as the header says: a file that shrinks meanwhile is filled
// up with zeros, as tar(1) does.
func (a *writer) file(ctx context.Context, f *os.File, h *tar.Header) error {
	r, err := reopen(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := a.tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(a.tw, content.ContextReader(ctx, io.LimitReader(r, h.Size)), a.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	clear(a.buf)
	for n < h.Size {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		k, err := a.tw.Write(a.buf[:min(h.Size-n, int64(len(a.buf)))])
		if err != nil {
			return err
		}
		n += int64(k)
	}
	return nil
}

// reopen opens the very file an O_PATH descriptor stands for.
func reopen(f *os.File, flags int) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func readlink(f *os.File) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", b)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return string(b[:n]), nil
}

// xattrs are the extended attributes that mean something elsewhere: capabilities and the
// user's own.
func xattrs(f *os.File) map[string]string {
	file := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	list := make([]byte, 64<<10)
	n, err := unix.Listxattr(file, list)
	if err != nil || n == 0 {
		return nil
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if strings.Contains(name, "=") { // no record can have it, pax(1): "The keyword shall not include an equals sign"
			continue
		}
		value := make([]byte, 64<<10)
		k, err := unix.Getxattr(file, name, value)
		if err == nil && !errors.Is(err, unix.ENODATA) {
			records[xattrPrefix+name] = string(value[:k])
		}
	}
	return records
}

const xattrPrefix = "SCHILY.xattr."
