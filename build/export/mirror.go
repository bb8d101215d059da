package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// RemoveOthers removes from the directory dir what is not in kept, paths relative to it. The
// directory itself stays. Symbolic links are removed, never followed.
func RemoveOthers(ctx context.Context, dir string, kept map[string]bool) (err error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	keep := map[string]bool{".": true}
	for name := range kept { // the directories of platforms are of no tree
		for name != "." && !keep[name] {
			keep[name] = true
			name = path.Dir(name)
		}
	}
	if err := removeOthers(ctx, root.Fd(), ".", ".", keep); err != nil {
		return fmt.Errorf("removing from %s what is not in the result: %w", dir, err)
	}
	return nil
}

// removeOthers looks at the directory at path, which is called name in the open directory parent.
func removeOthers(ctx context.Context, parent int, name, at string, keep map[string]bool) (err error) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", at, err)
	}
	d := os.NewFile(uintptr(fd), at)
	defer func() { err = errors.Join(err, d.Close()) }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := path.Join(at, child)
		if !keep[p] {
			if err := statefile.RemoveAllAt(fd, child); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, child, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat %s: %w", p, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := removeOthers(ctx, fd, child, p, keep); err != nil {
				return err
			}
		}
	}
	return nil
}
