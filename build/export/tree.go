package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// An entry is a file of a tree that is exported. Parents come before children.
type entry struct {
	path string // relative to the tree; "." is the root
	stat unix.Stat_t
	dir  int    // open directory that holds it
	name string // in dir
}

func (e entry) kind() uint32 { return e.stat.Mode & unix.S_IFMT }

// An inode is what the names of one file have in common.
type inode struct{ device, number uint64 }

func (e entry) inode() inode { return inode{e.stat.Dev, e.stat.Ino} }

// permissions are those of the mode that give nobody the rights of another.
func (e entry) permissions() uint32 {
	if e.kind() == unix.S_IFDIR {
		return e.stat.Mode & 0o7777
	}
	return e.stat.Mode & 0o777
}

// mtime is the modification time it leaves with: the epoch if there is one. Files that are put out get that
// whatever theirs was (exporter/local of BuildKit); in layers it is the latest they may have.
func (e entry) mtime(epoch *time.Time) time.Time {
	if epoch != nil {
		return *epoch
	}
	return time.Unix(e.stat.Mtim.Unix())
}

// open opens a regular file for reading.
func (e entry) open() (*os.File, error) {
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.path, err)
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

// readlink returns what a symbolic link points to.
func (e entry) readlink() (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(e.dir, e.name, buf)
	if err != nil {
		return "", fmt.Errorf("readlink %s: %w", e.path, err)
	}
	return string(buf[:n]), nil
}

// maxDepth bounds the directories that are open at once. A path of PATH_MAX can have twice
// as many, but then nothing else can use it either.
const maxDepth = 1000

// walk calls fn for every file of root, sorted by name in each directory. It never follows
// a link: every file is opened by its name in its open directory.
func walk(ctx context.Context, root *rootfs.Dir, fn func(entry) error) error {
	top := entry{path: ".", dir: root.Fd(), name: "."}
	if err := unix.Fstatat(top.dir, top.name, &top.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat the root: %w", err)
	}
	if err := fn(top); err != nil {
		return err
	}
	return walkDir(ctx, top, fn, 0)
}

func walkDir(ctx context.Context, e entry, fn func(entry) error, depth int) (err error) {
	if depth > maxDepth {
		return fmt.Errorf("%s...: more than %d directories deep", e.path[:100], maxDepth)
	}
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	dir := os.NewFile(uintptr(fd), e.path)
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		child := entry{path: path.Join(e.path, name), dir: fd, name: name}
		err := unix.Fstatat(fd, name, &child.stat, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			// A whiteout with nothing below it, as the lowest layer of a difference has: overlayfs lists
			// its name where there is nothing to be merged.
			continue
		}
		if err != nil {
			return fmt.Errorf("stat %s: %w", child.path, err)
		}
		if err := fn(child); err != nil {
			return err
		}
		if child.kind() == unix.S_IFDIR {
			if err := walkDir(ctx, child, fn, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// xattrs returns the extended attributes that belong to a file wherever it is: the user's, and
// its capabilities. Errors mean that there are none.
func (e entry) xattrs() map[string]string {
	// An entry is named by its directory: a link or device must not be opened.
	p := fmt.Sprintf("/proc/self/fd/%d/%s", e.dir, e.name)
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil {
		return nil
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10)
		if n, err := unix.Lgetxattr(p, name, value); err == nil {
			attrs[name] = string(value[:n])
		}
	}
	return attrs
}
