package layer

import (
	"errors"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A directory of the layer that is held open, as O_PATH. It is valid until the next call
// of parent, which may close it.
type directory struct {
	fd   int
	path string // where it really is: no component is a symbolic link
}

// A place is a name in a directory.
type place struct {
	dir  directory
	base string
}

func (p place) path() string { return joinPath(p.dir.path, p.base) }

func joinPath(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// A parentCache holds the directories used last open, under the names the tar uses for them.
// It must be reset when something that a name may lead through is replaced.
type parentCache struct {
	root int
	open map[string]directory
}

// maxParents bounds the descriptors. Tars are sorted, so few are enough.
const maxParents = 128

func (c *parentCache) put(name string, d directory) {
	if c.open == nil {
		c.open = map[string]directory{}
	}
	if len(c.open) >= maxParents {
		c.reset()
	}
	c.open[name] = d
}

func (c *parentCache) reset() {
	for name, d := range c.open {
		unix.Close(d.fd) // O_PATH: nothing to lose
		delete(c.open, name)
	}
}

// parent opens the directory that the tar calls dir, clean and relative, and makes what is
// missing on the way: an implicit directory, as old as the entry it is made for.
func (a *applier) parent(dir string, mtime unix.Timespec) (directory, error) {
	if dir == "" {
		return directory{fd: a.root}, nil
	}
	if a.stale {
		a.parents.reset()
		a.stale = false
	}
	if d, ok := a.parents.open[dir]; ok {
		return d, nil
	}
	d, err := a.openDir(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		d, err = a.walk(dir, func(d directory, name string) error {
			return a.makeImplicit(place{d, name}, mtime)
		})
	}
	if err != nil {
		return directory{}, err
	}
	a.parents.put(dir, d)
	return d, nil
}

// openDir opens a directory by its real path.
func (a *applier) openDir(path string) (directory, error) {
	fd, err := openInside(a.root, path, unix.O_PATH|unix.O_DIRECTORY)
	return directory{fd, path}, err
}

// openInside opens path, which must lead through no symbolic link and not out of root.
func openInside(root int, path string, flags uint64) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return -1, &os.PathError{Op: "openat2", Path: shorten(path), Err: err}
		}
	}
}

// walk goes to the directory dir component by component, following symbolic links with the layer
// as root. Where a component is missing or is a whiteout it calls missing, which may make a
// directory there; without missing the errdefs.ErrNotFound ends it.
func (a *applier) walk(dir string, missing func(directory, string) error) (directory, error) {
	const maxLinks = 40 // as the kernel
	links, at, rest := 0, "", dir
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at, _ = splitPath(at)
			continue
		}
		if len(name) > maxName || len(at)+1+len(name) > maxPath {
			return directory{}, invalid("its directory really is %s, which is too long", shorten(joinPath(at, name)))
		}
		link, err := a.step(at, name, missing)
		if err != nil {
			return directory{}, err
		}
		if link == "" {
			at = joinPath(at, name)
			continue
		}
		if links++; links > maxLinks || len(link)+1+len(rest) > 8*maxPath {
			return directory{}, invalid("its directory leads through too many symbolic links")
		}
		if strings.HasPrefix(link, "/") {
			at = ""
		}
		rest = link + "/" + rest
	}
	return a.openDir(at)
}

// step looks at one component, and returns where it leads if it is a symbolic link.
func (a *applier) step(at, name string, missing func(directory, string) error) (link string, err error) {
	d, err := a.openDir(at)
	if err != nil {
		return "", err
	}
	defer unix.Close(d.fd)
	st, err := statAt(d.fd, name)
	if errors.Is(err, unix.ENOENT) || err == nil && isWhiteout(&st) {
		if missing == nil {
			return "", errdefs.ErrNotFound
		}
		return "", missing(d, name)
	}
	if err != nil {
		return "", err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "", nil
	case unix.S_IFLNK:
		return readlinkAt(d.fd, name)
	}
	return "", invalid("%s is not a directory", shorten(joinPath(at, name)))
}

// makeImplicit makes a directory for which the tar has no entry, so far.
func (a *applier) makeImplicit(at place, mtime unix.Timespec) error {
	if !a.o.Plain && strings.HasPrefix(at.base, whiteoutPrefix) {
		return invalid("its directory leads to %q, the name of a whiteout", at.base)
	}
	if err := a.mkdir(at); err != nil {
		return err
	}
	p := at.path()
	if err := a.setTime(p, mtime); err != nil {
		return err
	}
	a.implicit[p] = true
	return nil
}

func statAt(dirfd int, name string) (st unix.Stat_t, err error) {
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	return st, nil
}

func readlinkAt(dirfd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
