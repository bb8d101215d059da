package op

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// findStubs returns the paths in the root that do not exist and on which something is going to
// be mounted. The container's start makes them; they are no work of the command.
func (r *execRun) findStubs() (stubs []string) {
	for _, m := range r.process.Mounts {
		p, err := realPath(r.process.Files, m.Target, true)
		if err != nil {
			continue // the start will fail on it
		}
		for p != "" {
			if _, err := r.process.Files.Lstat(p); !missing(err) {
				break
			}
			stubs = append(stubs, p)
			if !r.op.Meta.RemoveMountStubsRecursive {
				break
			}
			p = parentPath(p)
		}
	}
	slices.Sort(stubs)
	stubs = slices.Compact(stubs)
	slices.Reverse(stubs) // what is inside first
	return stubs
}

// removeStubs removes the mount points, unless the command made something of them.
func (r *execRun) removeStubs(stubs []string) error {
	if len(stubs) == 0 {
		return nil
	}
	dir, err := r.root.open()
	if err != nil {
		return err
	}
	for _, p := range stubs {
		if err := removeStub(dir, p); err != nil {
			return errors.Join(err, r.root.close())
		}
	}
	if err := r.root.close(); err != nil {
		return err
	}
	return r.dropCopies(stubs)
}

// dropCopies removes from the upper the directories that are there only because a mount point
// was made in them: with them their times, which the command did not change, come back.
func (r *execRun) dropCopies(stubs []string) error {
	upper, err := rootfs.Open(r.root.snap.Upper)
	if err != nil {
		return err
	}
	defer upper.Close()
	for _, p := range stubs {
		for p = parentPath(p); p != ""; p = parentPath(p) {
			dropped, err := dropCopy(upper, r.process.Files, p)
			if err != nil {
				return err
			}
			if !dropped {
				break
			}
		}
	}
	return nil
}

// dropCopy removes the directory p of upper if it is empty and like that of lower.
func dropCopy(upper, lower *rootfs.Dir, p string) (bool, error) {
	below, err := lower.Lstat(p)
	if err != nil || !below.IsDir() {
		return false, nil //nolint:nilerr // it is new, so it is no copy
	}
	parent, base, err := upper.Parent(p)
	if missing(err) {
		return true, nil // it went with another
	}
	if err != nil {
		return false, err
	}
	defer parent.Close()
	f, err := openDirAt(parent, base)
	if missing(err) {
		return true, nil
	}
	if err != nil {
		return false, nil //nolint:nilerr // the command put something else there
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return false, err
	}
	a, b := now.Sys().(*syscall.Stat_t), below.Sys().(*syscall.Stat_t)
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || !plainXattrs(f) {
		return false, nil
	}
	err = unix.Unlinkat(int(parent.Fd()), base, unix.AT_REMOVEDIR)
	if err == unix.ENOTEMPTY || err == unix.EEXIST {
		return false, nil
	}
	return err == nil, err
}

// plainXattrs says whether a directory of an upper has no attributes but those of every copy.
func plainXattrs(f *os.File) bool {
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(f.Fd()), buf)
	if err != nil {
		return false
	}
	for key := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if key != "" && (!ownedByOverlay(key) || strings.HasSuffix(key, ".opaque")) {
			return false
		}
	}
	return true
}

// removeStub removes p if it is an empty file or directory. The command may have put links in
// its place or on the way to it: a path that is not what it was is left alone.
func removeStub(dir *rootfs.Dir, p string) error {
	if now, err := realPath(dir, p, true); err != nil || now != p {
		return nil
	}
	parent, base, err := dir.Parent(p)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	fd := int(parent.Fd())
	var st, above unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
		return nil
	} else if err != nil {
		return err
	}
	if err := unix.Fstatat(fd, "", &above, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
		if err == unix.ENOTEMPTY || err == unix.EEXIST {
			return nil
		}
	case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0:
		err = unix.Unlinkat(fd, base, 0)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return utimes(fd, ".", above.Atim, above.Mtim)
}
