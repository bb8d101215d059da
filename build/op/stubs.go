package op

import (
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
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

// removeStubs removes the mount points, unless the command made something of them. What did not
// exist is in the upper, with all that is above it, so no overlay is mounted to remove it.
func (r *execRun) removeStubs(stubs []string) error {
	if len(stubs) == 0 {
		return nil
	}
	upper, err := os.Open(r.root.snap.Upper)
	if err != nil {
		return err
	}
	defer upper.Close()
	for _, p := range stubs {
		if err := removeStub(upper, p); err != nil {
			return err
		}
	}
	return nil // directories copied up only for the mount points go when it is committed
}

// removeStub removes p from an upper if it is an empty file or directory. The command may have put
// links in its place or on the way to it: a path that is not what it was is left alone.
func removeStub(upper *os.File, p string) error {
	parent, err := unix.Openat2(int(upper.Fd()), path.Dir(p), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil
	default:
		return &os.PathError{Op: "openat2", Path: path.Dir(p), Err: err}
	}
	defer unix.Close(parent)
	var st, above unix.Stat_t
	base := path.Base(p)
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
		return nil
	} else if err != nil {
		return err
	}
	if err := unix.Fstatat(parent, "", &above, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
		if err == unix.ENOTEMPTY || err == unix.EEXIST {
			return nil
		}
	case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0:
		err = unix.Unlinkat(parent, base, 0)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return utimes(parent, ".", above.Atim, above.Mtim)
}
