package layer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/teu-dev/teu/cache/statefile"
	"golang.org/x/sys/unix"
)

// finish sets what of the directories comes last and says what the layer needs from those below.
func (a *applier) finish() error {
	if a.aufs {
		if err := statefile.RemoveAllAt(a.root, aufsLinks); err != nil {
			return err
		}
	}
	var implicit []string
	for p, t := range a.times {
		ok, err := a.finishDir(p, t)
		if err != nil {
			return err
		}
		if ok && a.implicit[p] && !a.hidden(p) {
			implicit = append(implicit, p)
		}
	}
	if a.implicit[""] {
		implicit = append(implicit, ".")
	}
	slices.Sort(implicit)
	a.res.Implicit = implicit
	return a.finishLinks()
}

// finishDir sets the time and the default ACL of a directory, unless it was replaced later.
func (a *applier) finishDir(p string, t unix.Timespec) (bool, error) {
	fd, err := openInside(a.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if errors.Is(err, unix.EACCES) { // without privileges, and the layer says so
		a.warn("%s: its time: %v", shorten(p), err)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if acl, ok := a.acls[p]; ok {
		e := &entry{path: p, xattrs: []xattr{{defaultACL, acl}}}
		if err := a.setXattrs(e, setterOf(fd)); err != nil {
			return false, fmt.Errorf("directory %q: %w", shorten(p), err)
		}
	}
	return true, futimens(fd, t, t)
}

// hidden says whether the layer itself hides what layers below have at the directory p.
func (a *applier) hidden(p string) bool {
	if a.res.OpaqueRoot || a.replaced[p] {
		return true
	}
	for p, _ = splitPath(p); p != ""; p, _ = splitPath(p) {
		if a.replaced[p] || a.opaque[p] {
			return true
		}
	}
	return false
}

// finishLinks drops the links whose names were given to something else later.
func (a *applier) finishLinks() error {
	var links []Link
	last := map[string]int{}
	for i, l := range a.res.Links {
		last[l.Path] = i
	}
	for i, l := range a.res.Links {
		fd, err := openInside(a.root, l.Path, unix.O_PATH)
		switch {
		case err == nil:
			unix.Close(fd)
		case errors.Is(err, unix.ENOENT):
			if last[l.Path] == i {
				links = append(links, l)
			}
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		default:
			return err
		}
	}
	a.res.Links = links
	return nil
}

// futimens sets the times of an open file: utimensat(2), "NOTES", which x/sys does not offer.
func futimens(fd int, atime, mtime unix.Timespec) error {
	times := [2]unix.Timespec{atime, mtime}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("utimensat", errno)
	}
	return nil
}
