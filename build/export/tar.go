package export

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
)

// TreeOptions change how a filesystem is copied out.
type TreeOptions struct {
	Prefix string     // directory in the output, for one of several platforms
	Epoch  *time.Time // of all files, instead of theirs
	// Taken are the paths in the output of what was put there, in the end also by this tree.
	Taken map[string]bool
}

// take notes the path of e. Directories are common to all platforms; it says whether e is new.
func (o TreeOptions) take(e entry) (bool, error) {
	name := path.Join(o.Prefix, e.path)
	old := o.Taken[name]
	if o.Taken != nil {
		o.Taken[name] = true
	}
	if old && e.kind() != unix.S_IFDIR {
		return false, fmt.Errorf("%s is a file of several platforms; leave platform-split=false away: %w", e.path, errdefs.ErrInvalidArgument)
	}
	return !old, nil
}

// WriteTar writes the filesystem root to tw, as what `docker build -o type=tar` gives.
func WriteTar(ctx context.Context, tw *tar.Writer, root *rootfs.Dir, o TreeOptions) error {
	links := map[inode]string{} // first path of a file with several names
	return walk(ctx, root, func(e entry) error {
		if e.path == "." && o.Prefix == "" || e.kind() == unix.S_IFSOCK {
			return nil
		}
		if isNew, err := o.take(e); err != nil || !isNew {
			return err
		}
		h, err := header(e, o, links)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		f, err := e.open()
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyN(tw, content.ContextReader(ctx, f), h.Size)
		return err
	})
}

func header(e entry, o TreeOptions, links map[inode]string) (*tar.Header, error) {
	h := &tar.Header{
		Name: e.path, Format: tar.FormatPAX,
		Mode: int64(e.stat.Mode & 0o7777), Uid: int(e.stat.Uid), Gid: int(e.stat.Gid),
		ModTime: e.mtime(o.Epoch).Truncate(time.Second),
	}
	if o.Prefix != "" {
		h.Name = path.Join(o.Prefix, e.path)
	}
	for name, value := range e.xattrs() {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	id := e.inode()
	if first, ok := links[id]; ok && e.kind() != unix.S_IFDIR {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return h, nil
	}
	if e.stat.Nlink > 1 && e.kind() != unix.S_IFDIR {
		links[id] = h.Name
	}
	var err error
	switch e.kind() {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = e.readlink()
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if e.kind() == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.stat.Rdev)), int64(unix.Minor(e.stat.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.stat.Size
	}
	return h, err
}
