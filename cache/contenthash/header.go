package contenthash

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writeHeader writes what counts of a file besides its bytes: docker's tarsum version 1 of a tar
// header without a name.
func (n *node) writeHeader(h hash.Hash, resetOwner bool, xs []xattr) {
	uid, gid := uint64(n.uid), uint64(n.gid)
	if resetOwner {
		uid, gid = 0, 0
	}
	var flag byte
	var size int64
	var major, minor uint32
	link, mode := "", n.mode&0o7777 // S_ISUID and so on have the values of tar
	switch n.kind() {
	case unix.S_IFDIR:
		flag = '5'
	case unix.S_IFLNK:
		flag, link, mode = '2', n.link, n.mode&0o7000|0o777
	case unix.S_IFCHR, unix.S_IFBLK:
		if flag = '3'; n.kind() == unix.S_IFBLK {
			flag = '4'
		}
		major, minor = unix.Major(n.rdev), unix.Minor(n.rdev)
	case unix.S_IFIFO:
		flag = '6'
	default: // a socket counts as an empty file
		flag, size = '0', n.size
	}
	b := make([]byte, 0, 256)
	b = append(b, "namemode"...)
	b = strconv.AppendUint(b, uint64(mode), 10)
	b = append(b, "uid"...)
	b = strconv.AppendUint(b, uid, 10)
	b = append(b, "gid"...)
	b = strconv.AppendUint(b, gid, 10)
	b = append(b, "size"...)
	b = strconv.AppendInt(b, size, 10)
	b = append(b, "typeflag"...)
	b = append(b, flag)
	b = append(b, "linkname"...)
	b = append(b, link...)
	b = append(b, "unamegnamedevmajor"...)
	b = strconv.AppendUint(b, uint64(major), 10)
	b = append(b, "devminor"...)
	b = strconv.AppendUint(b, uint64(minor), 10)
	for _, x := range xs {
		b = append(b, x.name...)
		b = append(b, x.value...)
	}
	h.Write(b)
}

// An xattr is an extended attribute.
type xattr struct{ name, value string }

// counts says whether an attribute is part of the content.
func counts(name string) bool {
	return name == "security.capability" ||
		!strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "system.") &&
			!strings.HasPrefix(name, "trusted.overlay.") && !strings.HasPrefix(name, "user.overlay.")
}

// readXattrs returns the attributes that count, sorted by name, of the inode that fd stands for.
// An O_PATH descriptor answers only by its name in /proc.
func readXattrs(fd int, path bool) ([]xattr, error) {
	list := func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) }
	get := func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) }
	if path {
		proc := fmt.Sprintf("/proc/self/fd/%d", fd)
		list = func(buf []byte) (int, error) { return unix.Listxattr(proc, buf) }
		get = func(name string, buf []byte) (int, error) { return unix.Getxattr(proc, name, buf) }
	}
	names, err := readAttr(list)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || names == "" && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	var xs []xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if !counts(name) {
			continue
		}
		value, err := readAttr(func(buf []byte) (int, error) { return get(name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("getxattr %s: %w", name, err)
		}
		xs = append(xs, xattr{name, value})
	}
	slices.SortFunc(xs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return xs, nil
}

// readAttr asks with a buffer that grows.
func readAttr(get func([]byte) (int, error)) (string, error) {
	var small [256]byte
	for buf := small[:]; ; buf = make([]byte, 8*len(buf)) {
		n, err := get(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if !errors.Is(err, unix.ERANGE) || len(buf) >= 1<<20 {
			return "", err
		}
	}
}

// copyAll feeds r to h through buf.
func copyAll(h hash.Hash, r io.Reader, buf []byte) (int64, error) {
	var total int64
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
