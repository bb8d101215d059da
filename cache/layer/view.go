package layer

import (
	"errors"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A view looks into the union of overlay directories without mounting it, by the rules of
// Documentation/filesystems/overlayfs.rst. The directories do not change.
type view struct {
	dirs      []int // open, top first
	userXattr bool
	known     map[string]merged // by real path
}

// merged is what the union has at a path.
type merged struct {
	st   unix.Stat_t // Mode 0: nothing
	from int         // index of the directory that it comes from
	dirs []int       // for a directory, those that it is the union of, top first
}

func (m merged) kind() uint32 { return m.st.Mode & unix.S_IFMT }

// openView opens the overlay directories, top first.
func openView(dirs []string, userXattr bool) (*view, error) {
	v := &view{userXattr: userXattr, known: map[string]merged{}}
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			v.close()
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		v.dirs = append(v.dirs, fd)
	}
	return v, nil
}

func (v *view) close() {
	for _, fd := range v.dirs {
		unix.Close(fd)
	}
}

// lookup returns what is at path, whose last component may be a symbolic link but no other.
// Something below a file is nothing.
func (v *view) lookup(path string) (merged, error) {
	if m, ok := v.known[path]; ok {
		return m, nil
	}
	var m merged
	var err error
	if path == "" {
		m, err = v.root()
	} else {
		dir, _ := splitPath(path)
		var parent merged
		if parent, err = v.lookup(dir); err == nil && parent.kind() == unix.S_IFDIR {
			m, err = v.child(parent, path)
		}
	}
	if err != nil {
		return merged{}, err
	}
	v.known[path] = m
	return m, nil
}

func (v *view) root() (m merged, err error) {
	for i, fd := range v.dirs {
		if i == 0 {
			if err := unix.Fstat(fd, &m.st); err != nil {
				return m, os.NewSyscallError("fstat", err)
			}
		}
		m.dirs = append(m.dirs, i)
	}
	return m, nil
}

func (v *view) child(parent merged, path string) (m merged, err error) {
	for _, i := range parent.dirs {
		st, err := statAt(v.dirs[i], path) // its directories were looked at: no links
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return m, err
		case isWhiteout(&st), m.st.Mode != 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return m, nil
		}
		if m.st.Mode == 0 {
			m.st, m.from = st, i
		}
		if m.kind() != unix.S_IFDIR {
			return m, nil
		}
		m.dirs = append(m.dirs, i)
		if opaque, err := isOpaque(v.name(i, path), v.userXattr); err != nil || opaque {
			return m, err
		}
	}
	return m, nil
}

// name is a path for calls that take no descriptor.
func (v *view) name(i int, path string) string { return fdPath(v.dirs[i], path) }

// resolve follows the symbolic links in path, with the union as root, and returns where it really
// is. What is missing there is taken as it is written.
func (v *view) resolve(path string) (string, error) {
	at, rest := "", path
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at, _ = splitPath(at)
			continue
		}
		next := joinPath(at, name)
		if len(next) > maxPath {
			return "", invalid("the path %s is too long", shorten(next))
		}
		m, err := v.lookup(next)
		if err != nil {
			return "", err
		}
		if m.kind() != unix.S_IFLNK {
			at = next
			continue
		}
		link, err := readlinkAt(v.dirs[m.from], next)
		if err != nil {
			return "", err
		}
		if links++; links > 40 || len(link)+len(rest) > 8*maxPath {
			return "", invalid("%s leads through too many symbolic links", shorten(path))
		}
		if strings.HasPrefix(link, "/") {
			at = ""
		}
		rest = link + "/" + rest
	}
	return at, nil
}

// file resolves path to something that a hard link may be made to.
func (v *view) file(path string) (merged, string, error) {
	dir, base := splitPath(path)
	dir, err := v.resolve(dir)
	if err != nil {
		return merged{}, "", err
	}
	real := joinPath(dir, base)
	m, err := v.lookup(real)
	switch {
	case err != nil:
		return merged{}, "", err
	case m.st.Mode == 0:
		return merged{}, "", errdefs.ErrNotFound
	case m.kind() == unix.S_IFDIR:
		return merged{}, "", invalid("it is a directory")
	}
	return m, real, nil
}

// An attributes value is what a directory has besides its content.
type attributes struct {
	mode     uint32
	uid, gid uint32
	mtime    unix.Timespec
	xattrs   []xattr // those that are part of an image
}

// attributesAt returns those of the directory at path, already looked up as m.
func (v *view) attributesAt(m merged, path string) (attributes, error) {
	a := attributes{mode: m.st.Mode & 0o7777, uid: m.st.Uid, gid: m.st.Gid, mtime: m.st.Mtim}
	xs, err := listXattrs(v.name(m.from, joinPath(".", path)))
	for _, x := range xs {
		if wanted(x.name) {
			a.xattrs = append(a.xattrs, x)
		}
	}
	return a, err
}
