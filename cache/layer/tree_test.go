package layer_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file is an entry of a tar being made.
type file struct {
	tar.Header
	content string
}

var day = time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)

func entry(kind byte, name string) file {
	return file{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o644, ModTime: day, Format: tar.FormatPAX}}
}

func f(name, content string) file {
	e := entry(tar.TypeReg, name)
	e.content, e.Size = content, int64(len(content))
	return e
}

func d(name string) file {
	e := entry(tar.TypeDir, name)
	e.Mode = 0o755
	return e
}

func link(name, target string) file {
	e := entry(tar.TypeSymlink, name)
	e.Linkname, e.Mode = target, 0o777
	return e
}

func hard(name, target string) file {
	e := entry(tar.TypeLink, name)
	e.Linkname = target
	return e
}

func dev(kind byte, name string, major, minor int64) file {
	e := entry(kind, name)
	e.Devmajor, e.Devminor = major, minor
	return e
}

func wh(name string) file {
	return f(filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), "")
}

func opq(dir string) file { return f(filepath.Join(dir, ".wh..wh..opq"), "") }

func (e file) mode(mode int64) file        { e.Mode = mode; return e }
func (e file) owner(uid, gid int) file     { e.Uid, e.Gid = uid, gid; return e }
func (e file) at(t time.Time) file         { e.ModTime = t; return e }
func (e file) xattr(name, val string) file { return e.pax("SCHILY.xattr."+name, val) }

func (e file) pax(key, val string) file {
	old := e.PAXRecords
	e.PAXRecords = map[string]string{key: val}
	for k, v := range old {
		e.PAXRecords[k] = v
	}
	return e
}

// makeTar writes files with archive/tar.
func makeTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range files {
		hdr := e.Header
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// raw is a header as no library would write it.
func raw(t testing.TB, name, linkname string, kind byte, change func(h []byte)) []byte {
	t.Helper()
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], "00000000000\x00")
	copy(h[136:], "14557373042\x00")
	h[156] = kind
	copy(h[157:], linkname)
	copy(h[257:], "ustar\x0000")
	if change != nil {
		change(h)
	}
	sum := 8 * int(' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(h, make([]byte, 1024)...)
}

// list describes what is in dir, one line for each file, sorted. The short form has only what
// most tests are about.
func list(t testing.TB, dir string, long bool) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		xs := xattrs(t, p)
		line := describe(t, p, &st, xs)
		if rel == "." {
			line = "."
			if !long {
				return nil
			}
		} else {
			line = strings.Replace(line, " ", " "+rel, 1)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Rdev == 0 {
			if first, ok := inodes[st.Ino]; ok {
				line += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		}
		if long && !strings.HasPrefix(line, "w ") {
			line += fmt.Sprintf(" %04o %d:%d %d.%09d %q", st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, xs)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return lines
}

func describe(t testing.TB, p string, st *unix.Stat_t, xs []string) string {
	t.Helper()
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		for _, x := range xs {
			if x == "trusted.overlay.opaque=y" {
				return "o "
			}
		}
		return "d "
	case unix.S_IFLNK:
		to, err := os.Readlink(p)
		if err != nil {
			t.Fatal(err)
		}
		return "l  -> " + to
	case unix.S_IFREG:
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > 100 {
			return fmt.Sprintf("f  %d bytes", len(content))
		}
		return "f  " + string(content)
	case unix.S_IFIFO:
		return "p "
	case unix.S_IFSOCK:
		return "s "
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return "w "
		}
		return fmt.Sprintf("c  %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	default:
		return fmt.Sprintf("b  %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
}

// xattrs lists attributes, but not what the host's policy or overlayfs adds.
func xattrs(t testing.TB, p string) (xs []string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil {
		return nil
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") && name != "trusted.overlay.opaque" {
			continue
		}
		val := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(p, name, val)
		if err != nil {
			t.Fatal(err)
		}
		xs = append(xs, name+"="+string(val[:m]))
	}
	sort.Strings(xs)
	return xs
}

// A sentinel is a tree outside the one a tar is applied to. Nothing of it may change.
type sentinel struct{ dir, before string }

func newSentinel(t testing.TB, dir string) *sentinel {
	t.Helper()
	s := &sentinel{dir: dir}
	for _, sub := range []string{"", "sub", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file", "sub/file", "etc-passwd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("untouched "+name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s.before = s.state(t)
	return s
}

// state is everything stat(2) says but access times, with contents.
func (s *sentinel) state(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(s.dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		content := ""
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			c, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = string(c)
		}
		fmt.Fprintf(&b, "%s %d %o %d:%d %d %d %v %v %q %q\n", p, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim, xattrs(t, p), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (s *sentinel) check(t testing.TB) {
	t.Helper()
	if after := s.state(t); after != s.before {
		t.Errorf("something outside the layer changed\nbefore:\n%safter:\n%s", s.before, after)
	}
}
