// Package contenthash owns the digests of files and directories by their content: mode,
// owner, size, link target, extended attributes and bytes, never times.
//
// The digests are those of BuildKit's cache/contenthash (v0.33), so that cache keys made
// of them can be shared with it.
package contenthash

import (
	"context"
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
)

var errTODO = errors.New("not written yet")

// TreeOptions describe a tree.
type TreeOptions struct {
	// CacheFile remembers digests of files between processes by path, size, times and inode. It is
	// read on first use and written by Close. "" keeps them in memory only.
	CacheFile string

	// ResetOwner counts every file as owned by 0:0, as files of a local context are.
	ResetOwner bool

	// Include and Exclude are the patterns, as in .dockerignore, of the files that are part of the
	// tree at all. With Include, FollowPaths adds paths and the symbolic links on the way to them.
	Include, Exclude, FollowPaths []string
}

// A Tree answers for one directory tree, which should not change while it is open: what
// changed is noticed at the latest by the next OpenTree. It may be used by many goroutines.
type Tree struct {
	o TreeOptions
}

// OpenTree opens the directory dir of the host, whose content is not trusted: symbolic links are
// resolved inside it.
func OpenTree(dir string, o TreeOptions) (*Tree, error) { return nil, errTODO }

// FromFile is OpenTree for an open directory, which may be a detached mount. The Tree owns f.
func FromFile(f *os.File, o TreeOptions) (*Tree, error) { return nil, errTODO }

// Close writes the cache file and gives the directory back.
func (t *Tree) Close() error { return errTODO }

// A Selection says which files below a path count.
type Selection struct {
	Wildcard    bool     // the path is a pattern of path.Match
	FollowLinks bool     // the last component of the path may be a symbolic link
	Include     []string // patterns, relative to the path, of the files that count; none means all
	Exclude     []string // patterns of the files that do not
	Required    []string // paths that must exist among those selected
	DirContents bool     // of a directory only the files inside count, not its own mode and owner
}

// Digest returns the digest of what sel selects below path. A path that does not exist is an
// errdefs.ErrNotFound, unless it is a wildcard: one that matches nothing has the digest of no bytes.
func (t *Tree) Digest(ctx context.Context, path string, sel Selection) (digest.Digest, error) {
	return "", errTODO
}

// An Entry is a file that a Selection selects.
type Entry struct {
	Path   string        // relative to the tree, without a leading slash; "" is the root
	Dir    bool          // a directory, itself: what is in it has entries of its own
	Digest digest.Digest // of the file alone
}

// Select returns the files that Digest would count, parents before children, so that a copy
// takes what the digest was made of.
func (t *Tree) Select(ctx context.Context, path string, sel Selection) ([]Entry, error) {
	return nil, errTODO
}
