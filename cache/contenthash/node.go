package contenthash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A node is a file of the tree. What is below a directory is looked at when it is asked for:
// one file of an image must not cost a walk through all of it.
type node struct {
	name         string
	mode         uint32 // with the type, as stat(2)
	uid, gid     uint32
	size         int64
	mtime, ctime int64 // nanoseconds
	ino, rdev    uint64

	link    string // of a symbolic link, if read
	matches matches
	weak    bool // only here because something in it is

	kids   []*node          // sorted by name, if loaded
	loaded bool             // kids are complete
	known  map[string]*node // kids that were asked for before; nil stands for none

	own   digest.Digest // of the file or, for a directory, of its header; "" until known
	whole digest.Digest // of a directory with all it has; "" until known
}

func (n *node) set(st *unix.Stat_t) {
	n.mode, n.uid, n.gid = st.Mode, st.Uid, st.Gid
	n.size, n.ino, n.rdev = st.Size, st.Ino, st.Rdev
	n.mtime, n.ctime = st.Mtim.Nano(), st.Ctim.Nano()
}

func (n *node) kind() uint32    { return n.mode & unix.S_IFMT }
func (n *node) isDir() bool     { return n.kind() == unix.S_IFDIR }
func (n *node) isLink() bool    { return n.kind() == unix.S_IFLNK }
func trimSlash(p string) string { return strings.TrimPrefix(p, "/") }

// keyPath is how BuildKit writes paths: "" for the root, else "/a/b".
func keyPath(p string) string {
	p = path.Join("/", p)
	if p == "/" {
		return ""
	}
	return p
}

// load reads the directory n, at p, and no further, except where it must know whether a directory
// has anything that the filter lets through.
func (t *Tree) load(n *node, p string) error {
	if n.loaded || !n.isDir() {
		return nil
	}
	f, err := t.dir.OpenFile(trimSlash(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		if n.weak && errors.Is(err, fs.ErrPermission) {
			n.loaded = true
			return nil
		}
		return fmt.Errorf("reading the directory %s: %w", p, err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("reading the directory %s: %w", p, err)
	}
	n.kids = make([]*node, 0, len(entries))
	for _, e := range entries {
		kid, ok := n.known[e.Name()]
		if !ok {
			if kid, err = t.visit(n, p, e.Name(), e.IsDir(), int(f.Fd())); err != nil {
				return err
			}
		}
		if kid != nil {
			n.kids = append(n.kids, kid)
		}
	}
	slices.SortFunc(n.kids, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	n.loaded, n.known = true, nil
	return nil
}

// visit makes the node of the file name in the open directory dirfd, n; nil if it is not part of the tree.
func (t *Tree) visit(n *node, p, name string, isDir bool, dirfd int) (*node, error) {
	kid := &node{name: name}
	kp := p + "/" + name
	keep, err := t.filter.decide(n, kid, trimSlash(kp), isDir)
	if err != nil || !keep {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil // removed meanwhile
		}
		return nil, &fs.PathError{Op: "lstat", Path: kp, Err: err}
	}
	kid.set(&st)
	if !kid.weak {
		return kid, nil
	}
	if err := t.load(kid, kp); err != nil || len(kid.kids) == 0 {
		return nil, err
	}
	return kid, nil
}

// kid returns the file name in the directory n, at p, or nil.
func (t *Tree) kid(n *node, p, name string) (*node, error) {
	if !n.isDir() {
		return nil, nil
	}
	if n.loaded {
		i, ok := slices.BinarySearchFunc(n.kids, name, func(k *node, name string) int { return strings.Compare(k.name, name) })
		if !ok {
			return nil, nil
		}
		return n.kids[i], nil
	}
	if k, ok := n.known[name]; ok {
		return k, nil
	}
	k, err := t.visitOne(n, p, name)
	if err != nil {
		return nil, err
	}
	if n.known == nil {
		n.known = map[string]*node{}
	}
	n.known[name] = k
	return k, nil
}

// visitOne is visit for a directory that has not been read.
func (t *Tree) visitOne(n *node, p, name string) (*node, error) {
	dir, err := t.dir.OpenFile(trimSlash(p), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: p + "/" + name, Err: err}
	}
	return t.visit(n, p, name, st.Mode&unix.S_IFMT == unix.S_IFDIR, int(dir.Fd()))
}

// loadAll reads everything below n, several directories at a time.
func (t *Tree) loadAll(ctx context.Context, n *node, p string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	var walk func(n *node, p string) error
	walk = func(n *node, p string) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := t.load(n, p); err != nil {
			return err
		}
		for _, k := range n.kids {
			if !k.isDir() {
				continue
			}
			kp := p + "/" + k.name
			if !g.TryGo(func() error { return walk(k, kp) }) {
				if err := walk(k, kp); err != nil {
					return err
				}
			}
		}
		return nil
	}
	g.Go(func() error { return walk(n, p) })
	return g.Wait()
}

// readlink returns where the symbolic link n, at p, leads.
func (t *Tree) readlink(n *node, p string) (string, error) {
	if n.link == "" {
		link, err := t.dir.Readlink(trimSlash(p))
		if err != nil {
			return "", fmt.Errorf("reading the symbolic link %s: %w", p, err)
		}
		n.link = link
	}
	return n.link, nil
}

// resolve follows the symbolic links of p inside the tree, the one at its end only if last is
// set. It returns the node and where it really is, or nil.
func (t *Tree) resolve(p string, last bool) (*node, string, error) {
	const maxLinks = 255 // as BuildKit
	type step struct {
		n *node
		p string
	}
	at := []step{{t.root, ""}}
	rest := p
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 1)]
			continue
		}
		dir := at[len(at)-1]
		n, err := t.kid(dir.n, dir.p, name)
		if err != nil || n == nil {
			return nil, "", err
		}
		if !n.isLink() || !last && strings.Trim(rest, "/") == "" {
			at = append(at, step{n, dir.p + "/" + name})
			continue
		}
		link, err := t.readlink(n, dir.p+"/"+name)
		if err != nil {
			return nil, "", err
		}
		if links++; links > maxLinks {
			return nil, "", fmt.Errorf("%s leads through too many symbolic links: %w", p, unix.ELOOP)
		}
		if path.IsAbs(link) {
			at = at[:1]
		}
		rest = link + "/" + rest
	}
	end := at[len(at)-1]
	return end.n, end.p, nil
}

// sameFile says whether an open file still is what n was made of. What is put into a directory
// meanwhile is not about the directory itself.
func (n *node) sameFile(st *unix.Stat_t) bool {
	if n.mode != st.Mode || n.ino != st.Ino || n.uid != st.Uid || n.gid != st.Gid {
		return false
	}
	return n.isDir() || n.size == st.Size && n.mtime == st.Mtim.Nano() && n.ctime == st.Ctim.Nano()
}

func fstat(f *os.File) (st unix.Stat_t, err error) {
	err = os.NewSyscallError("fstat", unix.Fstat(int(f.Fd()), &st))
	return st, err
}
