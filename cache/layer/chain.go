package layer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A chainBuilder makes what a layer needs in one chain in the empty directory root.
type chainBuilder struct {
	root       int
	noChown    bool
	below, own *view // own is the layer itself
	plan       chainPlan
	last       []dressed
	moved      map[string]string // directories of the layer that are elsewhere in the copy
}

// dressed is a directory that lacks its time and its default ACL until nothing more is put in.
type dressed struct {
	path string
	attributes
}

// over makes the directories whose attributes come from below, and those on the way to them.
func (b *chainBuilder) over() error {
	for _, path := range slices.Sorted(maps.Keys(b.plan.attrs)) { // parents first
		if err := b.overDir(path); err != nil {
			return err
		}
		if err := b.dress(path, b.plan.attrs[path]); err != nil {
			return err
		}
	}
	return b.finish()
}

// overDir makes path and its parents; a parent that has an entry in the tar looks as in the layer.
func (b *chainBuilder) overDir(path string) error {
	if path == "" {
		return nil
	}
	if fd, err := openInside(b.root, path, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return unix.Close(fd)
	}
	dir, _ := splitPath(path)
	if err := b.overDir(dir); err != nil {
		return err
	}
	m, err := b.own.lookup(path)
	if err != nil {
		return err
	}
	a, err := b.own.attributesAt(m, path)
	if err != nil {
		return err
	}
	if err := b.mkdir(path); err != nil {
		return err
	}
	return b.dress(path, a)
}

func (b *chainBuilder) mkdir(path string) error {
	dir, base := splitPath(path)
	fd, err := openInside(b.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mkdirat(fd, base, 0o755); err != nil {
		return &os.PathError{Op: "mkdirat", Path: path, Err: err}
	}
	return nil
}

// dress gives a directory its attributes, but for what finish sets.
func (b *chainBuilder) dress(path string, a attributes) error {
	fd, err := openInside(b.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !b.noChown {
		if err := unix.Fchown(fd, int(a.uid), int(a.gid)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	for _, x := range a.xattrs {
		if isDefaultACL(x) {
			continue
		}
		if err := setXattr(fd, x); err != nil {
			return err
		}
	}
	b.last = append(b.last, dressed{path, a})
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, a.mode))
}

func (b *chainBuilder) finish() error {
	for _, d := range b.last {
		fd, err := openInside(b.root, d.path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(d.xattrs, isDefaultACL); i >= 0 {
			err = setXattr(fd, d.xattrs[i])
		}
		if err == nil {
			err = futimens(fd, d.mtime, d.mtime)
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// setXattr sets what this process may.
func setXattr(fd int, x xattr) error {
	if err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0); err != nil && !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("fsetxattr", err)
	}
	return nil
}

// copy makes the whole layer again out of hard links to its files, which never change. An
// implicit directory that is a symbolic link below goes where that leads.
func (b *chainBuilder) copy(ctx context.Context) error {
	if err := b.copyDir(ctx, "", ""); err != nil {
		return err
	}
	for _, l := range b.plan.links {
		if err := b.link(l); err != nil {
			return err
		}
	}
	return b.finish()
}

// copyDir copies the directory from of the layer, which is to is in the copy.
func (b *chainBuilder) copyDir(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if from != to {
		b.moved[from] = to
	}
	fd, err := openInside(b.own.dirs[0], from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), from)
	defer dir.Close()
	if err := b.copyAttributes(from, to); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := b.copyEntry(ctx, int(dir.Fd()), name, joinPath(from, name), joinPath(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyAttributes gives the directory to, which has been made, what the layer says of it. An
// implicit one has been given what the layers below say.
func (b *chainBuilder) copyAttributes(from, to string) error {
	want, below := b.plan.attrs[from]
	if !below || to != from {
		m, err := b.own.lookup(from)
		if err != nil {
			return err
		}
		if want, err = b.own.attributesAt(m, from); err != nil {
			return err
		}
	}
	if from == "" || !b.plan.implicit[from] {
		if err := b.dress(to, want); err != nil {
			return err
		}
	}
	opaque, err := isOpaque(b.own.name(0, from), b.own.userXattr)
	if err != nil || !opaque {
		return err
	}
	fd, err := openInside(b.root, to, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, overlayXattr(b.own.userXattr, "opaque"), []byte("y"), 0))
}

func (b *chainBuilder) copyEntry(ctx context.Context, dirfd int, name, from, to string) error {
	st, err := statAt(dirfd, name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if to, err = b.place(from, to); err != nil {
			return err
		}
		return b.copyDir(ctx, from, to)
	}
	dir, base := splitPath(to)
	fd, err := openInside(b.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isWhiteout(&st) {
		if err := markWhiteouts(fd, b.own.userXattr); err != nil {
			return err
		}
	}
	err = unix.Linkat(dirfd, name, fd, base, 0)
	if isWhiteout(&st) && errors.Is(err, unix.EPERM) {
		err = unix.Mknodat(fd, base, unix.S_IFCHR|0o600, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) { // two names for one file: the first stays
		return &os.LinkError{Op: "linkat", Old: from, New: to, Err: err}
	}
	return nil
}

// place makes the directory that from becomes, and returns where that is.
func (b *chainBuilder) place(from, to string) (string, error) {
	m, err := b.below.lookup(to)
	if err != nil {
		return "", err
	}
	if m.kind() == unix.S_IFLNK && b.plan.implicit[from] {
		if to, err = b.below.resolve(to); err != nil {
			return "", err
		}
	}
	return to, b.mkdirAll(to)
}

// mkdirAll makes the directory path of the copy, whose parents look as they do below.
func (b *chainBuilder) mkdirAll(path string) error {
	if path == "" {
		return nil
	}
	fd, err := openInside(b.root, path, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	dir, _ := splitPath(path)
	if err := b.mkdirAll(dir); err != nil {
		return err
	}
	if err := b.mkdir(path); err != nil {
		return err
	}
	m, err := b.below.lookup(path)
	if err != nil {
		return err
	}
	a := attributes{mode: 0o755}
	if m.kind() == unix.S_IFDIR {
		if a, err = b.below.attributesAt(m, path); err != nil {
			return err
		}
	}
	return b.dress(path, a)
}

// link makes a hard link to a file of a lower layer.
func (b *chainBuilder) link(l Link) error {
	m, target, err := b.below.file(l.Target)
	if errors.Is(err, errdefs.ErrNotFound) {
		return missingTarget(l)
	}
	if err != nil {
		return fmt.Errorf("the target %s of the hard link %s: %w", shorten(l.Target), shorten(l.Path), err)
	}
	dir, base := splitPath(l.Path)
	if dir, err = b.parent(dir); err != nil {
		return err
	}
	if err := b.mkdirAll(dir); err != nil {
		return err
	}
	fd, err := openInside(b.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Linkat(b.below.dirs[m.from], target, fd, base, 0); err != nil {
		return &os.LinkError{Op: "linkat", Old: target, New: l.Path, Err: err}
	}
	return nil
}

// parent returns where the directory of a hard link is in the copy. One that the layer has of itself
// is no symbolic link any more, whatever it is below.
func (b *chainBuilder) parent(dir string) (string, error) {
	m, err := b.own.lookup(dir)
	if err != nil {
		return "", err
	}
	if to, ok := b.moved[dir]; ok {
		return to, nil
	}
	if m.kind() == unix.S_IFDIR {
		return dir, nil
	}
	return b.below.resolve(dir)
}
