package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
)

// ChangeKind says what happened to a file, with docker's numbers.
type ChangeKind int

// The kinds of changes.
const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// String is docker's letter.
func (k ChangeKind) String() string { return [...]string{"C", "A", "D"}[k] }

// Change is a difference between a container's root filesystem and its image.
type Change struct {
	Path string
	Kind ChangeKind
}

// Changes lists what a container has changed of its image's files, by path. What teu made
// for its own mounts does not count.
func (e *Engine) Changes(ctx context.Context, ref string) ([]Change, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	changes, err := e.changes(ctx, c)
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return changes, e.whole(c, ref, err)
}

func (e *Engine) changes(ctx context.Context, c *Container) ([]Change, error) {
	sn, err := e.snapshot(c.ID)
	if err != nil {
		return nil, err
	}
	w, err := compareUpper(sn)
	if err != nil {
		return nil, fmt.Errorf("comparing %s with its image: %w", c.Name, err)
	}
	defer w.close()
	return w.dir(ctx, ".", true)
}

// comparison walks an upper directory, which a container may be changing.
type comparison struct {
	upper, lower *rootfs.Dir
	ours         map[string]bool // places of our own mounts
}

func compareUpper(sn snapshot.Snapshot) (*comparison, error) {
	upper, err := rootfs.Open(sn.Upper)
	if err != nil {
		return nil, err
	}
	f, err := mount.Overlay{Lowers: sn.Lowers, UserXattr: sn.UserXattr}.Open()
	if err != nil {
		upper.Close()
		return nil, err
	}
	return &comparison{upper: upper, lower: rootfs.FromFile(f), ours: ourPlaces()}, nil
}

func (w *comparison) close() {
	w.upper.Close()
	w.lower.Close()
}

// ourPlaces are the files and directories that are made in every container, to mount
// something on or to be known by; docker has them in a layer below.
func ourPlaces() map[string]bool {
	places := map[string]bool{}
	for _, p := range []string{"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", markName} {
		places[p] = true
	}
	return places
}

// ourOwn says whether p is such a place, untouched and not the image's, but that an image which was
// exported from a container has a mark too.
func (w *comparison) ourOwn(p string, fi fs.FileInfo) bool {
	if !w.ours[p] || p != markName && w.existed(p) {
		return false
	}
	if !fi.IsDir() {
		return fi.Mode().IsRegular() && fi.Size() == 0
	}
	names, err := w.names(p)
	return err == nil && len(names) == 0
}

func (w *comparison) existed(p string) bool {
	_, err := w.lower.Lstat(p)
	return err == nil
}

func (w *comparison) names(dir string) ([]string, error) {
	return readNames(w.upper, dir)
}

func readNames(root *rootfs.Dir, dir string) ([]string, error) {
	f, err := root.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// dir compares what is below the directory dir. below says that the image has the directory.
func (w *comparison) dir(ctx context.Context, dir string, below bool) ([]Change, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names, err := w.names(dir)
	if err != nil {
		return nil, gone(err)
	}
	var changes []Change
	for _, name := range names {
		more, err := w.entry(ctx, path.Join(dir, name), below)
		if err != nil {
			return changes, err
		}
		changes = append(changes, more...)
	}
	return changes, nil
}

// gone makes nothing of a file that was removed meanwhile.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}

func (w *comparison) entry(ctx context.Context, p string, below bool) ([]Change, error) {
	fi, err := w.upper.Lstat(p)
	if err != nil {
		return nil, gone(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		if !below || !w.existed(p) {
			return nil, nil // made and removed again
		}
		return []Change{{"/" + p, Deleted}}, nil
	}
	if w.ourOwn(p, fi) {
		return nil, nil
	}
	self := Change{"/" + p, Added}
	var old fs.FileInfo
	if below {
		if old, err = w.lower.Lstat(p); err == nil {
			self.Kind = Modified
		}
	}
	if !fi.IsDir() {
		return []Change{self}, nil
	}
	opaque := w.opaque(p)
	inside, err := w.dir(ctx, p, self.Kind == Modified && old.IsDir() && !opaque)
	if err != nil {
		return nil, err
	}
	if opaque && self.Kind == Modified && old.IsDir() {
		inside = append(inside, w.hidden(p)...)
	}
	if p == "etc" && self.Kind == Modified && len(inside) == 0 && fi.Mode() == old.Mode() {
		return nil, nil // only our own places were made in it
	}
	return append(inside, self), nil
}

func (w *comparison) opaque(p string) bool {
	f, err := w.upper.OpenFile(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		var value [1]byte
		if n, err := unix.Fgetxattr(int(f.Fd()), name, value[:]); err == nil && n == 1 && value[0] == 'y' {
			return true
		}
	}
	return false
}

// hidden are the files of the image that a new directory in place of its own hides.
func (w *comparison) hidden(dir string) (changes []Change) {
	names, err := readNames(w.lower, dir)
	if err != nil {
		return nil
	}
	for _, name := range names {
		p := path.Join(dir, name)
		if _, err := w.upper.Lstat(p); err != nil {
			changes = append(changes, Change{"/" + p, Deleted})
		}
	}
	return changes
}
