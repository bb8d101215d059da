package snapshot

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// copyAttributes makes the directory to look like the directory from: mode, owner and the
// extended attributes that are not overlayfs's own.
func copyAttributes(to, from string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		// Without privileges the owner cannot be given; then all files belong to us anyway.
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil && os.Geteuid() == 0 {
			return err
		}
	}
	if err := copyXattrs(to, from); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	return nil
}

func copyXattrs(to, from string) error {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: from, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "security.") {
			continue // labels are the host's
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		m, err := unix.Getxattr(from, name, value)
		if err == nil {
			err = unix.Setxattr(to, name, value[:m], 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EPERM) {
			return &os.PathError{Op: "copying the attribute " + name + " of", Path: from, Err: err}
		}
	}
	return nil
}
