package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// link makes a hard link. Its mode and owner are those of the target, whatever the entry says:
// CVE-2021-32760. A target that is not in this layer is left to Stack.
func (a *applier) link(at place, e *entry) error {
	dir, base := splitPath(e.link)
	if base == "" {
		return invalid("its target is the root")
	}
	d, err := a.existing(dir)
	if errors.Is(err, errdefs.ErrNotFound) {
		return a.linkBelow(at, e)
	}
	if err != nil {
		return fmt.Errorf("its target %q: %w", shorten(e.link), err)
	}
	defer unix.Close(d.fd)
	st, err := statAt(d.fd, base)
	switch {
	case errors.Is(err, unix.ENOENT):
		return a.linkBelow(at, e)
	case err != nil:
		return err
	case isWhiteout(&st):
		return invalid("its target %q is removed by this layer", shorten(e.link))
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return invalid("its target %q is a directory", shorten(e.link))
	}
	if old, err := statAt(at.dir.fd, at.base); err == nil && old.Ino == st.Ino && old.Dev == st.Dev {
		return nil // clearing the name could remove the only one
	}
	err = a.create(at, "linkat", func() error { return unix.Linkat(d.fd, base, at.dir.fd, at.base, 0) })
	if errors.Is(err, unix.ENOENT) {
		return invalid("its target %q was in the directory whose place it takes", shorten(e.link))
	}
	return err
}

// existing opens the directory that the tar calls dir, if it is there.
func (a *applier) existing(dir string) (directory, error) {
	d, err := a.openDir(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return a.walk(dir, nil)
	}
	return d, err
}

// linkBelow remembers a link to a file of a lower layer.
func (a *applier) linkBelow(at place, e *entry) error {
	if strings.HasPrefix(e.link, aufsLinks+"/") {
		return invalid("its target is not there")
	}
	if err := a.clear(at); err != nil {
		return err
	}
	if len(a.res.Links) >= maxLinks {
		return invalid("more than %d hard links to files that are not in the layer", maxLinks)
	}
	a.res.Links = append(a.res.Links, Link{Path: at.path(), Target: e.link})
	if err := a.remember(at.path() + e.link); err != nil {
		return err
	}
	return a.replace(at.path())
}

// whiteout hides what layers below have under the name. What this layer itself has there stays:
// image-spec v1.1, layer.md, "Whiteouts".
func (a *applier) whiteout(at place) error {
	st, err := statAt(at.dir.fd, at.base)
	switch {
	case errors.Is(err, unix.ENOENT):
		if err := markWhiteouts(at.dir.fd, a.o.UserXattr); err != nil {
			return err
		}
		if err := unix.Mknodat(at.dir.fd, at.base, unix.S_IFCHR|0o600, 0); err != nil {
			return &os.PathError{Op: "mknodat", Path: at.base, Err: err}
		}
		return a.replace(at.path())
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		if err := a.setOpaque(fdPath(at.dir.fd, at.base)); err != nil {
			return err
		}
	}
	return a.replace(at.path())
}

// markOpaque hides what layers below have in the directory.
func (a *applier) markOpaque(d directory) error {
	if d.path == "" {
		a.res.OpaqueRoot = true // overlayfs knows no such root; Stack leaves the lower layers out
		return nil
	}
	if a.opaque[d.path] {
		return nil
	}
	a.opaque[d.path] = true
	if err := a.remember(d.path); err != nil {
		return err
	}
	return a.setOpaque(fdPath(d.fd, "."))
}

func (a *applier) setOpaque(path string) error {
	if err := unix.Lsetxattr(path, overlayXattr(a.o.UserXattr, "opaque"), []byte("y"), 0); err != nil {
		return fmt.Errorf("marking it opaque: %w", err)
	}
	return nil
}
