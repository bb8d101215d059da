package op

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A settler takes out of an upper what is no change to the tree below it, so that the layer
// made of it has what BuildKit v0.33 puts into one (util/overlay, Changes): files that were
// written again as they were, directories copied up for a time that does not count, whiteouts
// of nothing. An opaque directory becomes one that names what it hides.
//
// It differs where BuildKit loses something: all extended attributes are compared, and a file
// with several names stays, as the link between them would be gone.
//
// Nobody else works on the upper. It walks only directories that both have.
type settler struct {
	userXattr bool
}

// settleDepth bounds the directories open at once; what lies deeper stays as it is.
const settleDepth = 1000

// settle settles the upper of m, before it becomes a layer.
func (m *mutable) settle() error {
	if len(m.base) == 0 {
		return nil
	}
	lower, err := m.before()
	if err != nil {
		return err
	}
	root, err := lower.OpenFile("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	upper, err := os.Open(m.snap.Upper)
	if err != nil {
		return err
	}
	defer upper.Close()
	s := &settler{userXattr: m.snap.UserXattr}
	if _, err := s.dir(upper, root, settling{}); err != nil {
		return fmt.Errorf("settling a layer: %w", err)
	}
	return nil
}

// settling says where in the tree a directory is.
type settling struct {
	depth  int
	hidden bool // below an opaque directory: what is not in the upper is gone
}

// dir settles one directory, and says whether nothing is left in it.
func (s *settler) dir(upper, lower *os.File, at settling) (empty bool, err error) {
	names, err := upper.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	var was unix.Stat_t
	if err := unix.Fstat(int(upper.Fd()), &was); err != nil {
		return false, err
	}
	left := len(names)
	for _, name := range names {
		gone, err := s.entry(upper, lower, name, at)
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
		if gone {
			left--
		}
	}
	if left == len(names) {
		return left == 0, nil
	}
	return left == 0, utimes(int(upper.Fd()), ".", was.Atim, was.Mtim)
}

// entry settles one entry of upper, and says whether it removed it.
func (s *settler) entry(upper, lower *os.File, name string, at settling) (gone bool, err error) {
	var u, l unix.Stat_t
	if err := unix.Fstatat(int(upper.Fd()), name, &u, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	err = unix.Fstatat(int(lower.Fd()), name, &l, unix.AT_SYMLINK_NOFOLLOW)
	whiteout := u.Mode&unix.S_IFMT == unix.S_IFCHR && u.Rdev == 0
	switch {
	case err == unix.ENOENT && whiteout:
		return true, unix.Unlinkat(int(upper.Fd()), name, 0)
	case err == unix.ENOENT && u.Mode&unix.S_IFMT == unix.S_IFDIR:
		return false, s.transparent(upper, name) // the kernel marks a directory that was moved here
	case err == unix.ENOENT, err == nil && whiteout:
		return false, nil
	case err != nil:
		return false, err
	}
	if u.Mode&unix.S_IFMT == unix.S_IFDIR {
		if l.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, s.transparent(upper, name) // a file below it is hidden anyway
		}
		return s.subdir(upper, lower, name, &u, &l, at)
	}
	if u.Nlink > 1 {
		return false, nil
	}
	same, err := sameFile(upper, lower, name, &u, &l)
	if err != nil || !same {
		return false, err
	}
	return true, unix.Unlinkat(int(upper.Fd()), name, 0)
}

// subdir settles a directory that both have.
func (s *settler) subdir(upper, lower *os.File, name string, u, l *unix.Stat_t, at settling) (gone bool, err error) {
	if at.depth >= settleDepth && !at.hidden {
		return false, nil
	}
	at.depth++
	up, err := openDirAt(upper, name)
	if err != nil {
		return false, err
	}
	defer up.Close()
	low, err := openDirAt(lower, name)
	if err != nil {
		return false, err
	}
	defer low.Close()
	at.hidden = at.hidden || s.opaque(up)
	if at.hidden {
		if err := s.expose(up, low, u); err != nil {
			return false, err
		}
	}
	empty, err := s.dir(up, low, at)
	if err != nil || !empty || !sameAttributes(u, l) {
		return false, err
	}
	if same, err := sameXattrs(fdPath(upper, name), fdPath(lower, name)); err != nil || !same {
		return false, err
	}
	return true, unix.Unlinkat(int(upper.Fd()), name, unix.AT_REMOVEDIR)
}

func (s *settler) opaqueName() string {
	if s.userXattr {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

func (s *settler) opaque(dir *os.File) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(int(dir.Fd()), s.opaqueName(), value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// transparent takes the opaque mark from the directory name in upper, if it has it.
func (s *settler) transparent(upper *os.File, name string) error {
	err := unix.Lremovexattr(fdPath(upper, name), s.opaqueName())
	if err == unix.ENODATA || err == unix.ENOTSUP {
		return nil
	}
	return err
}

// expose makes up, which hides low, a directory that says with a whiteout each what is gone.
func (s *settler) expose(up, low *os.File, was *unix.Stat_t) error {
	hidden, err := low.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range hidden {
		// Whoever is there hides it already.
		if err := unix.Mknodat(int(up.Fd()), name, unix.S_IFCHR, 0); err != nil && err != unix.EEXIST {
			return fmt.Errorf("whiteout of %s: %w", name, err)
		}
	}
	if err := s.transparent(up, "."); err != nil {
		return fmt.Errorf("removing %s: %w", s.opaqueName(), err)
	}
	return utimes(int(up.Fd()), ".", was.Atim, was.Mtim)
}

func fdPath(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

func sameAttributes(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Rdev == b.Rdev
}

// sameFile compares what is no directory. A time without a fraction may have been cut when a
// layer was unpacked, so then the content decides.
func sameFile(upper, lower *os.File, name string, u, l *unix.Stat_t) (bool, error) {
	if !sameAttributes(u, l) || u.Size != l.Size || u.Mtim != l.Mtim {
		return false, nil
	}
	if same, err := sameXattrs(fdPath(upper, name), fdPath(lower, name)); err != nil || !same {
		return false, err
	}
	switch u.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		a, err := readlinkAt(upper, name)
		if err != nil {
			return false, err
		}
		b, err := readlinkAt(lower, name)
		return a == b, err
	case unix.S_IFREG:
		if u.Size == 0 || u.Mtim.Nsec != 0 {
			return true, nil
		}
		return sameContent(upper, lower, name)
	}
	return true, nil
}

func sameContent(upper, lower *os.File, name string) (bool, error) {
	var files [2]*os.File
	for i, dir := range []*os.File{upper, lower} {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return false, err
		}
		files[i] = os.NewFile(uintptr(fd), name)
		defer files[i].Close()
	}
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(files[0], a)
		m, err2 := io.ReadFull(files[1], b)
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return true, nil
		}
		if err := errors.Join(err, err2); err != nil {
			return false, err
		}
	}
}

// sameXattrs compares the extended attributes of two files that are no overlay's own.
func sameXattrs(a, b string) (bool, error) {
	x, err := xattrNames(a)
	if err != nil {
		return false, err
	}
	y, err := xattrNames(b)
	if err != nil || !slices.Equal(x, y) {
		return false, err
	}
	for _, name := range x {
		v, w := make([]byte, 64<<10), make([]byte, 64<<10)
		n, err := unix.Lgetxattr(a, name, v)
		if err != nil {
			return false, err
		}
		m, err := unix.Lgetxattr(b, name, w)
		if err != nil || !bytes.Equal(v[:n], w[:m]) {
			return false, err
		}
	}
	return true, nil
}

func xattrNames(path string) (names []string, err error) {
	n, err := unix.Llistxattr(path, nil)
	if n == 0 || err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	if n, err = unix.Llistxattr(path, buf); err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name != "" && !ownedByOverlay(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
