package layer

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An xattr is an extended attribute.
type xattr struct{ name, value string }

const (
	maxXattrs     = 256
	maxXattrValue = 64 << 10 // bytes, XATTR_SIZE_MAX
)

// How GNU tar, star and docker write extended attributes, and how libarchive does.
const (
	schilyXattr     = "SCHILY.xattr."
	libarchiveXattr = "LIBARCHIVE.xattr."
)

// defaultACL is what new files in a directory have as their ACL: acl(5).
const defaultACL = "system.posix_acl_default"

func isDefaultACL(x xattr) bool { return x.name == defaultACL }

// wanted says whether an attribute is part of an image. Those of overlayfs would let a layer
// redirect or hide what lies in others; labels belong to the policy of the host.
func wanted(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user."):
		return true
	}
	return name == "security.capability" ||
		name == "system.posix_acl_access" || name == defaultACL
}

// checkXattrs returns the wanted attributes of hdr, sorted by name.
func (a *applier) checkXattrs(hdr *tar.Header) ([]xattr, error) {
	if len(hdr.PAXRecords) == 0 {
		return nil, nil
	}
	found := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) { // SCHILY after, and so over, LIBARCHIVE
		name, value := key, hdr.PAXRecords[key]
		if coded, ok := strings.CutPrefix(key, libarchiveXattr); ok {
			var err error
			if name, value, err = decodeLibarchive(coded, value); err != nil {
				return nil, err
			}
		} else if name, ok = strings.CutPrefix(key, schilyXattr); !ok {
			continue
		}
		if len(name) > maxName || len(value) > maxXattrValue || strings.IndexByte(name, 0) >= 0 {
			return nil, invalid("an extended attribute with a name of %d and a value of %d bytes", len(name), len(value))
		}
		if wanted(name) {
			found[name] = value
		}
	}
	if len(found) > maxXattrs {
		return nil, invalid("%d extended attributes", len(found))
	}
	var xs []xattr
	for _, name := range slices.Sorted(maps.Keys(found)) {
		xs = append(xs, xattr{name, found[name]})
	}
	return xs, nil
}

// decodeLibarchive undoes libarchive's archive_write_set_format_pax.c: the name is escaped as
// in an URL, the value is base64 without padding.
func decodeLibarchive(name, value string) (string, string, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", "", invalid("the name of an extended attribute: %v", err)
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return "", "", invalid("the extended attribute %s: %v", name, err)
	}
	return name, string(raw), nil
}

// setXattrs sets the attributes by set. Where the filesystem or our privileges do not allow
// one, that is a warning, as with docker.
func (a *applier) setXattrs(e *entry, set func(name string, value []byte) error) error {
	for _, x := range e.xattrs {
		switch err := set(x.name, []byte(x.value)); {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM):
			a.warn("%s: extended attribute %s: %v", shorten(e.path), x.name, err)
		default:
			return fmt.Errorf("setting the extended attribute %s: %w", x.name, err)
		}
	}
	return nil
}

// setterOf sets attributes of an open file.
func setterOf(fd int) func(name string, value []byte) error {
	return func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }
}

// fdPath names what lies in an open directory for calls that take no descriptor. Its parent
// is the directory itself, wherever that has been moved to.
func fdPath(dirfd int, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dirfd, base)
}

// markWhiteouts says that a directory has whiteouts. Overlayfs looks for them where it merges directories, and where
// this attribute tells that it has once. In another directory, one that no layer below has or that hides those, a
// whiteout would be listed, could not be looked up, and the directory could never be empty.
func markWhiteouts(dirfd int, userXattr bool) error {
	// Empty is what overlayfs writes where it copied up and cannot tell from where: fs/overlayfs/copy_up.c.
	if err := unix.Lsetxattr(fdPath(dirfd, "."), overlayXattr(userXattr, "origin"), nil, 0); err != nil {
		return fmt.Errorf("marking that it has whiteouts: %w", err)
	}
	return nil
}

// overlayXattr is the name of an attribute of overlayfs.
func overlayXattr(userXattr bool, name string) string {
	if userXattr {
		return "user.overlay." + name
	}
	return "trusted.overlay." + name
}

// listXattrs returns the attributes of the file at path, which is not followed, sorted by name.
func listXattrs(path string) ([]xattr, error) {
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
	)
}

// openXattrs are those of an open file.
func openXattrs(fd int) ([]xattr, error) {
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
	)
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]xattr, error) {
	names, err := readXattr(list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	var xs []xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		value, err := readXattr(func(buf []byte) (int, error) { return get(name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, os.NewSyscallError("getxattr", err))
		}
		xs = append(xs, xattr{name, value})
	}
	slices.SortFunc(xs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return xs, nil
}

// readXattr asks with a buffer that grows. Most files have no attributes at all.
func readXattr(get func([]byte) (int, error)) (string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := get(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if !errors.Is(err, unix.ERANGE) || len(buf) >= 1<<20 {
			return "", err
		}
		buf = make([]byte, 8*len(buf))
	}
}

// isOpaque says whether the directory at path hides those of lower layers.
func isOpaque(path string, userXattr bool) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(path, overlayXattr(userXattr, "opaque"), value[:])
	switch {
	case err == nil:
		return n == 1 && value[0] == 'y', nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ERANGE):
		return false, nil
	}
	return false, &os.PathError{Op: "lgetxattr", Path: path, Err: err}
}
