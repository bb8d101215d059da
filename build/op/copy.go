package op

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/contenthash"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// owner is a user and a group by number.
type owner struct{ uid, gid int }

// copyOptions are the part of a copy action that is about one source path.
type copyOptions struct {
	owner            *owner     // nil: as the source
	mode             *uint32    // nil: as the source
	modes            *mode.Set  // symbolic, wins over mode
	mtime            *time.Time // nil: as the source
	dirContents      bool       // copy what is in the directory, not the directory
	rootToo          bool       // with dirContents, a directory that exists becomes like the source
	followLinks      bool       // also at the end of the source path
	include, exclude []string
	replace          bool // a file may take the place of a directory and the other way round
	warn             func(format string, args ...any)
}

// A destination is the tree that is copied into.
type destination struct {
	*rootfs.Dir
	// upper, unless nil, is the directory in which the overlay Dir keeps what is new. What belongs into
	// directories that the copy itself made is written there, without the detour through the overlay,
	// which knows nothing of them yet. It is to be mounted anew before it is used for something else:
	// Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems".
	upper *rootfs.Dir
}

// A copier copies one source path. What it does is what fsutil/copy of BuildKit v0.33 does,
// down to its oddities; how is different: trees are walked by open directories, never by path, and
// files are copied beside each other.
type copier struct {
	copyOptions
	src      *source
	dst      destination
	included *patternmatcher.PatternMatcher
	excluded *patternmatcher.PatternMatcher
	made     []string // parents made, in order

	hands   hands
	links   links
	buffers sync.Pool
	noClone atomic.Bool // the filesystems cannot share blocks; asking only costs time
}

// copyTree copies srcPath of src to dstPath of dst.
func copyTree(ctx context.Context, src *source, srcPath string, dst destination, dstPath string, o copyOptions) error {
	c := &copier{copyOptions: o, src: src, dst: dst}
	c.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
	c.serializeWarnings()
	var err error
	if c.included, err = contenthash.NewMatcher(o.include); err != nil {
		return err
	}
	if c.excluded, err = contenthash.NewMatcher(o.exclude); err != nil {
		return err
	}
	from, err := realPath(src.Dir, srcPath, o.followLinks)
	if err != nil {
		return err
	}
	to, err := c.target(from, srcPath, dstPath)
	if err != nil {
		return err
	}
	if c.included == nil && c.excluded == nil { // patterns are not for several goroutines, nor are directories made late
		c.hands = newHands()
	}
	if err := c.start(ctx, from, to); err != nil {
		return err
	}
	return c.timeParents()
}

// serializeWarnings makes warn something that is called by one goroutine at a time.
func (c *copier) serializeWarnings() {
	warn := c.warn
	if warn == nil {
		warn = func(string, ...any) {}
	}
	var mu sync.Mutex
	c.warn = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		warn(format, args...)
	}
}

// target decides what the copy is called and makes the directories above it.
func (c *copier) target(from, srcPath, dstPath string) (string, error) {
	above := dstPath
	if dir, base := path.Split(dstPath); base != "" && base != "." {
		above = dir
	}
	if err := c.makeDirs(above); err != nil {
		return "", err
	}
	to, err := realPath(c.dst.Dir, dstPath, true)
	if err != nil {
		return "", err
	}
	srcInfo, err := c.src.lstat(from)
	if err != nil {
		return "", err
	}
	dstInfo, err := c.dst.Stat(to)
	if err != nil && !missing(err) {
		return "", err
	}
	into := dstInfo != nil && dstInfo.IsDir()
	if srcInfo.IsDir() {
		into = dstInfo != nil && !c.dirContents
	}
	if into {
		to = path.Join(to, path.Base(path.Join("/", srcPath)))
	}
	above = parentPath(to)
	if c.dirContents && srcInfo.IsDir() && dstInfo == nil {
		above = to
	}
	return to, c.makeDirs(above)
}

// lstat is Lstat, of what may be seen.
func (s *source) lstat(from string) (fs.FileInfo, error) {
	if !s.sees(from) {
		return nil, fmt.Errorf("%q: %w", "/"+from, errdefs.ErrNotFound)
	}
	fi, err := s.Lstat(from)
	if missing(err) {
		return nil, fmt.Errorf("%q: %w", "/"+from, errdefs.ErrNotFound)
	}
	return fi, err
}

// makeDirs makes the directory p with its parents, as far as they are missing, mode 0755 or
// the mode that was asked for.
func (c *copier) makeDirs(p string) error {
	perm := uint32(0o755)
	if c.mode != nil && c.modes == nil {
		perm = *c.mode & 0o777
	}
	made, err := makeDirs(c.dst.Dir, p, perm, c.owner, c.mtime)
	c.made = append(c.made, made...)
	return err
}

// makeDirs makes the directory p in d with its parents, and returns what was missing.
func makeDirs(d *rootfs.Dir, p string, perm uint32, o *owner, mtime *time.Time) (made []string, err error) {
	p, err = realPath(d, p, true)
	if err != nil || p == "" {
		return nil, err
	}
	for i := range len(p) + 1 {
		if i < len(p) && p[i] != '/' {
			continue
		}
		if _, err := d.Lstat(p[:i]); missing(err) {
			made = append(made, p[:i])
		} else if err != nil {
			return nil, err
		}
	}
	opts := rootfs.MkdirOptions{UID: -1, GID: -1}
	if o != nil {
		opts.UID, opts.GID = o.uid, o.gid
	}
	if mtime != nil {
		opts.Mtime = *mtime
	}
	return made, d.MkdirAll(p, perm, opts)
}

// timeParents sets the time of the parents again, which filling them changed.
func (c *copier) timeParents() error {
	if c.mtime == nil {
		return nil
	}
	for _, p := range slices.Backward(c.made) {
		parent, base, err := c.dst.Parent(p)
		if err != nil {
			return err
		}
		err = errors.Join(setTimes(int(parent.Fd()), base, *c.mtime), parent.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

// start opens the directories that from and to are in, and copies.
func (c *copier) start(ctx context.Context, from, to string) error {
	srcDir, srcName, err := c.src.Parent(from)
	if err != nil {
		return err
	}
	defer srcDir.Close()
	dstDir, dstName, err := c.dst.Parent(to)
	if err != nil {
		return err
	}
	defer dstDir.Close()
	e := entry{
		dir:    srcDir,
		name:   srcName,
		path:   from,
		parent: &target{fd: dstDir, path: parentPath(to)},
		target: dstName,
		top:    !c.rootToo,
	}
	return c.copy(ctx, e)
}

// An entry is one file being copied.
type entry struct {
	dir    *os.File // the directory it is in
	name   string
	path   string  // real path in the source
	rel    string  // path below the one that is copied, which patterns are about; "" at the top
	parent *target // where it goes
	target string  // its name there
	top    bool    // the path asked for itself, which leaves a directory that exists as it is
	in, ex patternmatcher.MatchInfo
}

// A target is a directory copied to. With patterns it is made when the first file for it is found.
type target struct {
	parent *target
	name   string
	path   string   // in the destination
	fd     *os.File // nil until it is known to exist
	fresh  bool     // made by this copy: nothing but what it copies is in it
	direct bool     // fd leads into the upper itself

	src  *os.File // the source directory, for mode, owner and the rest
	stat unix.Stat_t
}

// copy copies e, and what is in it if it is a directory.
func (c *copier) copy(ctx context.Context, e entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	include, exclude, err := c.selected(&e)
	if err != nil {
		return err
	}
	include = include && !exclude
	if !include && c.included == nil && !c.mayReturn() {
		return nil
	}
	if !c.src.sees(e.path) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(e.dir.Fd()), e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: "/" + e.path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.copyDir(ctx, e, st, include, exclude)
	}
	if !include {
		return nil
	}
	if c.src.local != nil {
		if err := c.src.local.changed("/"+e.path, &st); err != nil {
			return err
		}
	}
	fd, err := c.ensure(e.parent)
	if err != nil {
		return err
	}
	if err := c.clear(fd, e, false); err != nil {
		return err
	}
	return c.copyFile(ctx, fd, e, &st)
}

// selected matches e against the patterns, remembering what they said of its directory.
func (c *copier) selected(e *entry) (include, exclude bool, err error) {
	if e.rel == "" {
		return true, false, nil
	}
	include = true
	if c.included != nil {
		if include, e.in, err = c.included.MatchesUsingParentResults(e.rel, e.in); err != nil {
			return false, false, fmt.Errorf("include patterns: %w", err)
		}
	}
	if c.excluded != nil {
		if exclude, e.ex, err = c.excluded.MatchesUsingParentResults(e.rel, e.ex); err != nil {
			return false, false, fmt.Errorf("exclude patterns: %w", err)
		}
	}
	return include, exclude, nil
}

// mayReturn says whether something below an excluded directory can be selected again.
func (c *copier) mayReturn() bool { return c.excluded != nil && c.excluded.Exclusions() }

// clear makes room for e in fd. A directory does not give way to a file, nor a file to a
// directory, unless replace is set; directories are merged.
func (c *copier) clear(fd *os.File, e entry, isDir bool) error {
	if e.parent.fresh {
		return nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(fd.Fd()), e.target, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: e.parent.join(e.target), Err: err}
	}
	wasDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case wasDir && isDir:
		return nil
	case c.replace:
		return statefile.RemoveAllAt(int(fd.Fd()), e.target)
	case isDir:
		return fmt.Errorf("cannot copy the directory /%s to %s, which is none: %w", e.path, e.parent.join(e.target), errdefs.ErrFailedPrecondition)
	case wasDir:
		return fmt.Errorf("cannot replace the directory %s by the file /%s: %w", e.parent.join(e.target), e.path, errdefs.ErrFailedPrecondition)
	}
	if err := unix.Unlinkat(int(fd.Fd()), e.target, 0); err != nil {
		return &fs.PathError{Op: "unlink", Path: e.parent.join(e.target), Err: err}
	}
	return nil
}

// join returns the path of name in t, for people.
func (t *target) join(name string) string { return path.Join("/", t.path, name) }

// copyDir copies the directory e.
func (c *copier) copyDir(ctx context.Context, e entry, st unix.Stat_t, include, exclude bool) (err error) {
	f, err := openDirAt(e.dir, e.name)
	if err != nil {
		return fmt.Errorf("opening /%s: %w", e.path, err)
	}
	defer f.Close()
	t := &target{parent: e.parent, name: e.target, path: strings.TrimPrefix(e.parent.join(e.target), "/"), src: f, stat: st}
	defer func() {
		if t.fd != nil {
			err = errors.Join(err, t.fd.Close())
		}
	}()
	created := false
	if include {
		if created, err = c.makeTarget(t, e); err != nil {
			return err
		}
	}
	// Patterns that bring something back have to be asked for what is in an excluded directory.
	if !exclude || c.mayReturn() {
		if err := c.copyContents(ctx, e, f, t); err != nil {
			return err
		}
	}
	return c.finishDir(e, t, include, created)
}

func (c *copier) copyContents(ctx context.Context, e entry, f *os.File, t *target) error {
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("reading /%s: %w", e.path, err)
	}
	if err := c.src.complete(e.path, names); err != nil {
		return err
	}
	slices.Sort(names)
	return c.hands.share(ctx, names, func(ctx context.Context, name string) error {
		return c.copy(ctx, entry{
			dir:    f,
			name:   name,
			path:   below(e.path, name),
			rel:    below(e.rel, name),
			parent: t,
			target: name,
			in:     e.in,
			ex:     e.ex,
		})
	})
}

// below returns the path of name in the directory dir, which is clean.
func below(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// finishDir gives a directory its mode, owner and times, which making files in it would change.
func (c *copier) finishDir(e entry, t *target, include, created bool) error {
	if t.fd == nil {
		return nil
	}
	parent := t.parent.fd
	switch {
	case !include:
		return nil // BuildKit: one made for a file in it has the time of that
	case c.src.local != nil && e.path == "":
		// The root of a context is a directory of the builder's own, new with every build.
		now := time.Now()
		ts := unix.NsecToTimespec(now.UnixNano())
		t.stat.Atim, t.stat.Mtim = ts, ts
	}
	if created || !e.top {
		return c.dress(parent, t.name, e, &t.stat)
	}
	return c.setTime(parent, t.name, &t.stat) // BuildKit: it gets the time of the source all the same
}

// ensure makes the directory t if that has not been done yet.
func (c *copier) ensure(t *target) (*os.File, error) {
	if t.fd != nil {
		return t.fd, nil
	}
	if _, err := c.ensure(t.parent); err != nil {
		return nil, err
	}
	e := entry{path: t.path, parent: t.parent, target: t.name}
	created, err := c.makeTarget(t, e)
	if err != nil {
		return nil, err
	}
	if created {
		e.dir, e.name = t.src, "."
		err = c.dress(t.parent.fd, t.name, e, &t.stat)
	}
	return t.fd, err
}

// makeTarget makes or opens the directory t, whose parents exist or are made.
func (c *copier) makeTarget(t *target, e entry) (created bool, err error) {
	parent, err := c.ensure(t.parent)
	if err != nil {
		return false, err
	}
	if err := c.clear(parent, e, true); err != nil {
		return false, err
	}
	switch err := unix.Mkdirat(int(parent.Fd()), t.name, 0o700); err {
	case nil:
		created = true
	case unix.EEXIST:
	default:
		return false, &fs.PathError{Op: "mkdir", Path: "/" + t.path, Err: err}
	}
	t.fresh = created
	if err := c.openTarget(t, parent); err != nil {
		return created, fmt.Errorf("opening /%s: %w", t.path, err)
	}
	if !created && !e.top {
		err = unix.Fchmod(int(t.fd.Fd()), t.stat.Mode&0o7777)
	}
	return created, err
}

// openTarget opens the directory t in parent; one that is new, in the upper.
func (c *copier) openTarget(t *target, parent *os.File) (err error) {
	if t.fresh && c.dst.upper != nil && !t.parent.direct {
		t.direct = true
		t.fd, err = c.dst.upper.OpenFile(t.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		return err
	}
	t.direct = t.parent.direct
	t.fd, err = openDirAt(parent, t.name)
	return err
}

func openDirAt(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
