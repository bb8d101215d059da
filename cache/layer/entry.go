package layer

import (
	"archive/tar"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OCI image-spec v1.1, layer.md, "Whiteouts". Names that begin with metaPrefix are left over
// from AUFS, except the opaque marker.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	// aufsLinks held the first names of files that AUFS linked across layers. They are no part of the image,
	// but layers that docker made on it have hard links to them, which moby and containerd follow too.
	aufsLinks = ".wh..wh.plnk"
)

const (
	maxPath = unix.PathMax - 1 // bytes
	maxName = 255              // bytes
)

// An entry is a tar header that has been checked.
type entry struct {
	path     string // clean and relative; "" is the root. For a whiteout, of what it hides
	kind     byte   // tar.TypeReg, TypeDir, TypeSymlink, TypeLink, TypeChar, TypeBlock or TypeFifo
	ignored  bool
	whiteout bool
	opaque   bool // path is the directory to be made opaque, with one more component
	passing  bool // in aufsLinks
	sparse   bool

	mode     uint32 // permissions
	uid, gid int
	size     int64
	mtime    unix.Timespec
	atime    unix.Timespec
	link     string // as written for a symbolic link, clean and relative for a hard link
	dev      int
	xattrs   []xattr
}

// check turns hdr into an entry, or says why it cannot be part of a layer.
func (a *applier) check(hdr *tar.Header) (*entry, error) {
	e := &entry{kind: hdr.Typeflag}
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader, 'V': // 'V' is the label of a GNU tar volume
		e.ignored = true
		return e, nil
	case tar.TypeCont, tar.TypeGNUSparse:
		e.kind = tar.TypeReg
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, invalid("entries of this type are not known")
	}
	var err error
	if e.path, err = cleanPath(hdr.Name); err != nil {
		return nil, err
	}
	e.mtime = unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	if !a.o.Plain {
		if err := e.checkReserved(); err != nil || e.ignored || e.whiteout || e.opaque {
			return e, err
		}
	}
	if err := e.checkOwner(hdr); err != nil {
		return nil, err
	}
	e.mode = uint32(hdr.Mode) & 0o7777
	e.atime = e.mtime
	if !hdr.AccessTime.IsZero() {
		e.atime = unix.Timespec{Sec: hdr.AccessTime.Unix(), Nsec: int64(hdr.AccessTime.Nanosecond())}
	}
	if e.xattrs, err = a.checkXattrs(hdr); err != nil {
		return nil, err
	}
	return e, a.checkKind(e, hdr)
}

// checkReserved deals with the names that layers use for their own ends.
func (e *entry) checkReserved() error {
	dir, base := splitPath(e.path)
	if e.passing = dir == aufsLinks && e.kind == tar.TypeReg && !strings.HasPrefix(base, whiteoutPrefix); e.passing {
		return nil
	}
	for rest := e.path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch {
		case !strings.HasPrefix(name, whiteoutPrefix):
		case rest == "" && name == opaqueMarker:
			e.opaque = true
		case strings.HasPrefix(name, metaPrefix):
			e.ignored = true
			return nil
		case rest != "":
			return invalid("%q in it is the name of a whiteout, which is no directory", name)
		}
	}
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok || e.opaque {
		return nil
	}
	if name == "" || name == "." || name == ".." {
		return invalid("this whiteout names no file")
	}
	e.whiteout = true
	e.path = path.Join(dir, name)
	return nil
}

// checkOwner refuses ids that the kernel reads as "do not change", or that are cut to 0:
// CVE-2024-40635.
func (e *entry) checkOwner(hdr *tar.Header) error {
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= math.MaxUint32 || int64(hdr.Gid) >= math.MaxUint32 {
		return invalid("owner %d:%d", hdr.Uid, hdr.Gid)
	}
	e.uid, e.gid = hdr.Uid, hdr.Gid
	return nil
}

// checkKind checks what only one kind of entry has.
func (a *applier) checkKind(e *entry, hdr *tar.Header) (err error) {
	if e.path == "" && e.kind != tar.TypeDir {
		return invalid("the root of a layer is a directory")
	}
	switch e.kind {
	case tar.TypeReg:
		e.size = hdr.Size
		e.sparse = isSparse(hdr)
		a.bytes += hdr.Size
		if hdr.Size < 0 || a.bytes > a.o.MaxBytes || a.bytes < 0 {
			return invalid("the files have more than %d bytes", a.o.MaxBytes)
		}
	case tar.TypeSymlink:
		e.link = hdr.Linkname
		if e.link == "" || len(e.link) > maxPath || strings.IndexByte(e.link, 0) >= 0 {
			return invalid("it leads to %q", shorten(e.link))
		}
	case tar.TypeLink:
		if e.link, err = cleanPath(hdr.Linkname); err != nil {
			return fmt.Errorf("its target: %w", err)
		}
		target := strings.TrimPrefix(e.link, aufsLinks+"/")
		if !a.o.Plain && strings.Contains("/"+target, "/"+whiteoutPrefix) {
			return invalid("its target is a whiteout")
		}
	case tar.TypeChar, tar.TypeBlock:
		// include/linux/kdev_t.h: 12 bits and 20 bits.
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return invalid("device %d:%d", hdr.Devmajor, hdr.Devminor)
		}
		if e.kind == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
			return invalid("the device 0:0 is how overlayfs writes a whiteout")
		}
		e.dev = int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// cleanPath makes a name of a tar relative to the root of the layer. As with docker ".." is
// taken out of the text, before any symbolic link; a name that leads out is refused.
func cleanPath(name string) (string, error) {
	if name == "" {
		return "", invalid("it has no name")
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", invalid("a name with a zero byte")
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", invalid("the name leads out of the layer")
	}
	clean = strings.TrimPrefix(clean, "/")
	if clean == "." {
		clean = ""
	}
	if len(clean) > maxPath {
		return "", invalid("a name of %d bytes", len(clean))
	}
	for rest := clean; rest != ""; {
		var c string
		if c, rest, _ = strings.Cut(rest, "/"); len(c) > maxName {
			return "", invalid("a name with a component of %d bytes", len(c))
		}
	}
	return clean, nil
}

// splitPath cuts the last component off a clean path.
func splitPath(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// shorten keeps a name of the archive from filling a message.
func shorten(s string) string {
	const longest = 200
	if len(s) > longest {
		return s[:longest] + "..."
	}
	return s
}

func typeName(flag byte) string {
	switch flag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return "file"
	case tar.TypeDir:
		return "directory"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeLink:
		return "hard link"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "fifo"
	}
	return fmt.Sprintf("entry of type %q", flag)
}
