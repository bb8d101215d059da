package layer

import (
	"archive/tar"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// header describes a file. The format is left to archive/tar, which takes USTAR where that can
// hold everything and PAX elsewhere; both are read by everybody.
func (d *differ) header(it *item) (*tar.Header, error) {
	st := &it.st
	hdr := &tar.Header{
		Name: it.path,
		Mode: int64(st.Mode & 0o7777),
		Uid:  int(st.Uid), Gid: int(st.Gid),
		ModTime: d.clamp(st.Mtim),
	}
	if d.owner != nil {
		hdr.Uid, hdr.Gid = d.owner(hdr.Uid, hdr.Gid)
	}
	if len(it.path) > maxPath {
		return nil, invalid("a name of %d bytes", len(it.path))
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first, ok := d.links[key]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return hdr, nil
		}
		d.links[key] = it.path
	}
	switch kind {
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
		d.size += 4096
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
		d.size += (st.Size + 4095) &^ 4095
	case unix.S_IFLNK:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, it.link
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	default:
		return nil, invalid("a file of the unknown type %#o", kind)
	}
	return hdr, nil
}

// clamp cuts a time to seconds, as docker does, and to the epoch.
func (d *differ) clamp(ts unix.Timespec) time.Time {
	t := time.Unix(ts.Sec, 0)
	if d.epoch != nil && t.After(*d.epoch) {
		return d.epoch.Truncate(time.Second)
	}
	return t
}

// attributes adds the extended attributes that are part of an image.
func (d *differ) attributes(xs []xattr, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeLink {
		return nil // its first name has them
	}
	for _, x := range xs {
		switch {
		case strings.Contains(x.name, "="): // a PAX record cannot have such a key
		case wanted(x.name):
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords[schilyXattr+x.name] = x.value
		case x.name == overlayXattr(d.userXattr, "redirect"), x.name == overlayXattr(d.userXattr, "metacopy"):
			return &overlayError{strings.TrimPrefix(x.name, "trusted.")}
		}
	}
	return nil
}

// An overlayError is about an upper that is not what a layer can be made of.
type overlayError struct{ attr string }

func (e *overlayError) Error() string {
	return "its content is in another layer (" + e.attr + "): the overlay was mounted with redirect_dir or metacopy"
}

func (e *overlayError) Unwrap() error { return errdefs.ErrFailedPrecondition }
