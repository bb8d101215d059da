package op

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// findStubs returns the paths in the root that do not exist and on which something is going to
// be mounted. The container's start makes them; they are no work of the command.
func (r *execRun) findStubs() (stubs []string) {
	var targets []string
	for _, m := range r.process.Mounts {
		targets = append(targets, m.Target)
	}
	for _, m := range r.process.Devices.Mounts {
		targets = append(targets, m.Target)
	}
	for _, target := range targets {
		p, err := realPath(r.process.Files, target, true)
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
	return r.root.close() // directories copied up only for the mount points go when it is committed
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
