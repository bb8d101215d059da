// Package contenthash owns the digests of files and directories by their content: mode,
// owner, size, link target, extended attributes and bytes, never times.
//
// The digests are those of BuildKit's cache/contenthash (v0.33), so that cache keys made
// of them can be shared with it. Only devices differ: their numbers count here.
package contenthash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/rootfs"
	"golang.org/x/sys/unix"
)

// TreeOptions describe a tree.
type TreeOptions struct {
	// CacheFile remembers digests of files between processes by path, size, times and inode. It is
	// read on first use and written by Close, which makes its directory. "" keeps them in memory only.
	CacheFile string

	// ResetOwner counts every file as owned by 0:0 and the root as a plain directory, as those of a
	// local context are.
	ResetOwner bool

	// Include and Exclude are the patterns, as in .dockerignore, of the files that are part of the
	// tree at all. FollowPaths are paths, which may have wildcards, that are included together with
	// the symbolic links on the way to them and what those lead to.
	Include, Exclude, FollowPaths []string
}

// A Tree answers for one directory tree, as it was when it was looked at first: only the next
// OpenTree sees later changes. It may be used by many goroutines.
type Tree struct {
	o      TreeOptions
	dir    *rootfs.Dir
	filter *filter

	mu    sync.Mutex
	root  *node
	cache *statCache // nil until used
}

// OpenTree opens the directory dir of the host, whose content is not trusted: symbolic links are
// resolved inside it.
func OpenTree(dir string, o TreeOptions) (*Tree, error) {
	d, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	return newTree(d, o)
}

// FromFile is OpenTree for an open directory, which may be a detached mount. The Tree owns f.
func FromFile(f *os.File, o TreeOptions) (*Tree, error) { return newTree(rootfs.FromFile(f), o) }

func newTree(d *rootfs.Dir, o TreeOptions) (_ *Tree, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	t := &Tree{o: o, dir: d, root: &node{}}
	var st unix.Stat_t
	if err := unix.Fstat(d.Fd(), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if t.root.set(&st); !t.root.isDir() {
		return nil, fmt.Errorf("the root of a tree must be a directory: %w", errdefs.ErrInvalidArgument)
	}
	if o.ResetOwner {
		t.root.own = digest.FromBytes(nil) // BuildKit never sees the root of a local context
	}
	t.filter, err = newFilter(d, o)
	return t, err
}

// Close writes the cache file and gives the directory back.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.cache != nil {
		err = t.cache.save(t.o.CacheFile, t.o.ResetOwner)
	}
	return errors.Join(err, t.dir.Close())
}

// A Selection says which files below a path count.
type Selection struct {
	Wildcard    bool     // the path is a pattern of path.Match
	FollowLinks bool     // the last component of the path may be a symbolic link
	Include     []string // patterns, relative to the path, of the files that count; none means all
	Exclude     []string // patterns of the files that do not
	Required    []string // absolute paths that must be, or have something in them that is, selected
	DirContents bool     // of a directory only the files inside count, not its own mode and owner
}

// plain says whether everything at the path counts.
func (s Selection) plain() bool {
	return !s.Wildcard && !s.DirContents && len(s.Include) == 0 && len(s.Exclude) == 0 && len(s.Required) == 0
}

// Digest returns the digest of what sel selects below path. A path that does not exist is an
// errdefs.ErrNotFound if sel takes all of it; a wildcard or patterns that match nothing have the
// digest of no bytes. A path that ends in a slash has DirContents where there are patterns. A file
// that changes while it is read is an errdefs.ErrAborted that names it.
func (t *Tree) Digest(ctx context.Context, path string, sel Selection) (digest.Digest, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sel.plain() {
		return t.whole(ctx, path, sel.FollowLinks)
	}
	return t.selected(ctx, path, sel)
}

// An Entry is a file that a Selection selects.
type Entry struct {
	Path string // relative to the tree, without a leading slash; "" is the root
	Dir  bool   // a directory, itself: what is in it has entries of its own
	// Own is the digest of the file, or of a directory's mode and owner; "" if Digest has not asked for it.
	Own digest.Digest
}

// Select returns the files that Digest would count, parents before children, so that a copy
// takes what the digest was made of. It reads no file.
func (t *Tree) Select(ctx context.Context, path string, sel Selection) ([]Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, chosen, err := t.choose(ctx, path, sel)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(chosen))
	for _, c := range chosen {
		entries = append(entries, Entry{Path: trimSlash(c.real), Dir: c.node.isDir(), Own: c.node.own})
	}
	return entries, nil
}
