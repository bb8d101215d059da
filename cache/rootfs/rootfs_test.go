package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// tree makes HOST/{secret,tree/...}; links in the tree try to get at the secret.
func tree(t *testing.T) (host string, d *Dir) {
	t.Helper()
	host = t.TempDir()
	root := filepath.Join(host, "tree")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.WriteFile(filepath.Join(host, "secret"), []byte("of the host"), 0o600))
	do(os.MkdirAll(filepath.Join(root, "etc", "sub"), 0o755))
	do(os.MkdirAll(filepath.Join(root, filepath.Dir(host)), 0o755))
	do(os.WriteFile(filepath.Join(root, "etc", "passwd"), []byte("inside"), 0o644))
	do(os.WriteFile(filepath.Join(root, "secret"), []byte("inside too"), 0o644))
	for name, target := range map[string]string{
		"abs":        "/etc/passwd",
		"rel":        "etc/passwd",
		"up":         "../secret",
		"far":        "../../../../../../../../secret",
		"host":       filepath.Join(host, "secret"),
		"dirlink":    "/etc",
		"dirup":      "..",
		"proc":       "/proc/self/root",
		"loop":       "loop",
		"etc/up":     "../../secret",
		"dangling":   "/new/place",
		"dangrel":    "new2/place",
		"selfdangle": "/selfdangle/x",
	} {
		do(os.Symlink(target, filepath.Join(root, name)))
	}
	d, err := Open(root)
	do(err)
	t.Cleanup(func() { d.Close() })
	return host, d
}

func TestReadFileStaysInside(t *testing.T) {
	host, d := tree(t)
	for path, want := range map[string]string{
		"etc/passwd": "inside", "/etc/passwd": "inside", "//etc//passwd": "inside", "abs": "inside", "rel": "inside",
		"dirlink/passwd": "inside", "../etc/passwd": "inside", "../../../../etc/passwd": "inside",
		"up": "inside too", "far": "inside too", "etc/up": "inside too", "../secret": "inside too", "dirup/secret": "inside too",
		"dirlink/../secret": "inside too", "etc/sub/../../../secret": "inside too",
	} {
		if got, err := d.ReadFile(path, 100); string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"host", host + "/secret", "absent", "proc/" + host + "/secret", "loop", "etc/passwd/x"} {
		if got, err := d.ReadFile(path, 100); err == nil {
			t.Errorf("%s: got %q, want an error", path, got)
		}
	}
	if _, err := d.ReadFile("absent", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: got %v, want not exist", err)
	}
}

func TestReadFileRefuses(t *testing.T) {
	host, d := tree(t)
	root := filepath.Join(host, "tree")
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(root, "secret"), 1<<30); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]func(error) bool{
		"fifo":   errdefs.IsInvalidArgument, // CVE-2024-9676
		"etc":    errdefs.IsInvalidArgument,
		"secret": errdefs.IsResourceExhausted,
	} {
		if _, err := d.ReadFile(path, 1<<20); !want(err) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if got, err := d.ReadFile("etc/passwd", 6); string(got) != "inside" || err != nil {
		t.Errorf("file as large as the limit: %q, %v", got, err)
	}
	if _, err := d.ReadFile("etc/passwd", 5); !errdefs.IsResourceExhausted(err) {
		t.Errorf("file a byte larger: %v", err)
	}
}

func TestMagicLinksAreNotFollowed(t *testing.T) {
	d, err := Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, path := range []string{"/proc/self/cwd/.", "/proc/self/root/etc", "/proc/self/fd/0"} {
		if f, err := d.OpenFile(path, unix.O_PATH, 0); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: got %v, %v, want ELOOP", path, f, err)
		}
	}
}

func TestOpenFileCreatesInside(t *testing.T) {
	host, d := tree(t)
	f, err := d.OpenFile("../../new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := os.Stat(filepath.Join(host, "tree", "new")); err != nil {
		t.Error(err)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the file would be inherited: %v, %v", flags, err)
	}
	if _, err := d.OpenFile("etc", unix.O_DIRECTORY|unix.O_RDONLY, 0o755); err != nil {
		t.Errorf("permissions without O_CREAT: %v", err)
	}
}

func TestParent(t *testing.T) {
	host, d := tree(t)
	root := filepath.Join(host, "tree")
	for path, want := range map[string]struct{ dir, base string }{
		"etc/passwd":        {"etc", "passwd"},
		"/etc/absent":       {"etc", "absent"},
		"abs":               {".", "abs"},
		"dirlink/passwd":    {"etc", "passwd"},
		"dirlink":           {".", "dirlink"},
		"dirlink/":          {".", "dirlink"},
		"dirlink/.":         {".", "dirlink"},
		"dirlink/sub/../x":  {"etc", "x"},
		"../../x":           {".", "x"},
		"/":                 {".", "."},
		"":                  {".", "."},
		".":                 {".", "."},
		"..":                {".", "."},
		"etc/sub/..":        {"etc", "."},
		"dirlink/sub/../..": {".", "."},
	} {
		f, base, err := d.Parent(path)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		got, _ := f.Stat()
		expected, _ := os.Stat(filepath.Join(root, want.dir))
		if base != want.base || !os.SameFile(got, expected) {
			t.Errorf("%q: got base %s, want %s in %s", path, base, want.base, want.dir)
		}
		f.Close()
	}
	if _, _, err := d.Parent("absent/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing parent: got %v", err)
	}
	if _, _, err := d.Parent("etc/passwd/x"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("parent is a file: got %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	host, d := tree(t)
	root := filepath.Join(host, "tree")
	when := time.Unix(1234567, 0)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	o := MkdirOptions{UID: -1, GID: -1, Mtime: when}
	for path, made := range map[string]string{
		"a/b/c":          "a/b/c",
		"/etc/new":       "etc/new",
		"dirlink/new3/x": "etc/new3/x",
		"../../over/x":   "over/x",
		"dangling/y":     "new/place/y",
		"dangrel":        "new2/place",
		"etc":            "etc",
		"/":              ".",
		"q/../r":         "r",
	} {
		if err := d.MkdirAll(path, 0o755, o); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		fi, err := os.Lstat(filepath.Join(root, made))
		if err != nil || !fi.IsDir() {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if made != "etc" && made != "." && (fi.Mode().Perm() != 0o755 || !fi.ModTime().Equal(when)) {
			t.Errorf("%s: mode %v, time %v", path, fi.Mode(), fi.ModTime())
		}
	}
	for path, want := range map[string]error{
		"etc/passwd": unix.ENOTDIR, "etc/passwd/x": unix.ENOTDIR, "loop": unix.ELOOP, "loop/x": unix.ELOOP,
		"selfdangle": unix.ELOOP,
	} {
		if err := d.MkdirAll(path, 0o755, o); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 2 {
		t.Errorf("beside the tree there is %v, %v", entries, err)
	}
}

func TestMkdirAllOwner(t *testing.T) {
	privilege.NeedRoot(t)
	host, d := tree(t)
	if err := d.MkdirAll("owned/dir", 0o2750, MkdirOptions{UID: 1234, GID: 5678}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"owned", "owned/dir"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(host, "tree", name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o2750 {
			t.Errorf("%s: %d:%d %o", name, st.Uid, st.Gid, st.Mode)
		}
	}
}

// A link that somebody puts in the place of a directory that has just been made is not given an owner or a mode.
func TestMkdirExchanged(t *testing.T) {
	privilege.NeedRoot(t)
	host, d := tree(t)
	outside := filepath.Join(host, "outside")
	if err := errors.Join(os.Mkdir(outside, 0o700), os.Symlink(outside, filepath.Join(host, "tree/made"))); err != nil {
		t.Fatal(err)
	}
	parent, base, err := d.Parent("made")
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	err = d.dress(parent, base, "made", 0o777, MkdirOptions{UID: 1234, GID: 1234})
	if err == nil {
		t.Error("the link was followed")
	}
	var st unix.Stat_t
	if err := unix.Stat(outside, &st); err != nil || st.Uid != 0 || st.Mode&0o7777 != 0o700 {
		t.Errorf("outside: %d %o, %v", st.Uid, st.Mode, err)
	}
}

func TestStatAndReadlink(t *testing.T) {
	_, d := tree(t)
	if fi, err := d.Lstat("abs"); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("Lstat of a link: %v, %v", fi, err)
	}
	if fi, err := d.Stat("abs"); err != nil || !fi.Mode().IsRegular() || fi.Size() != 6 {
		t.Errorf("Stat of a link: %v, %v", fi, err)
	}
	if fi, err := d.Stat("/"); err != nil || !fi.IsDir() {
		t.Errorf("Stat of the root: %v, %v", fi, err)
	}
	if got, err := d.Readlink("dirlink/up"); got != "../../secret" || err != nil {
		t.Errorf("Readlink: %q, %v", got, err)
	}
	if _, err := d.Readlink("etc/passwd"); !errdefs.IsInvalidArgument(err) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("Readlink of a file: %v", err)
	}
	if _, err := d.Readlink("absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Readlink of nothing: %v", err)
	}
}

// TestSwappedPaths swaps a directory for a link out of the tree all the time.
func TestSwappedPaths(t *testing.T) {
	host, d := tree(t)
	root := filepath.Join(host, "tree")
	if err := errors.Join(os.Mkdir(filepath.Join(root, "swap"), 0o755), os.Symlink(host, filepath.Join(root, "out"))); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "swap"), unix.AT_FDCWD, filepath.Join(root, "out"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 10_000 {
		if data, err := d.ReadFile("swap/secret", 100); strings.Contains(string(data), "host") {
			t.Fatalf("read the secret of the host, %v", err)
		}
		_ = d.MkdirAll("swap/made/deep", 0o755, MkdirOptions{UID: -1, GID: -1})
		if f, err := d.OpenFile("swap/file", unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
			f.Close()
		}
	}
	close(stop)
	<-done
	if entries, err := os.ReadDir(host); err != nil || len(entries) != 2 {
		t.Errorf("beside the tree there is %v, %v", entries, err)
	}
}

func TestDirSurvivesARename(t *testing.T) {
	host, d := tree(t)
	if err := os.Rename(filepath.Join(host, "tree"), filepath.Join(host, "moved")); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ReadFile("abs", 100); string(got) != "inside" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzParentAgreesWithTheKernel(f *testing.F) {
	for _, s := range []string{"/", "a/b", "a/../b", "..", "a/..", "./.", "a//", "a/./", "...", "dirlink/.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		dir, base := split(path)
		if base == "" || base == ".." || strings.Contains(base, "/") {
			t.Fatalf("%q: base %q", path, base)
		}
		if strings.HasPrefix(dir, "/") || dir == "" {
			t.Fatalf("%q: dir %q", path, dir)
		}
	})
}

// Before it has its owner what is made is open to nobody.
func TestClosedBeforeTheOwner(t *testing.T) {
	privilege.NeedRoot(t)
	host, d := tree(t)
	sources, to := map[string]*Dir{}, map[string]string{} // two, as a copy ends with the first fault
	for name, create := range map[string]func(string) error{
		"dir":  func(p string) error { return os.Mkdir(p, 0o777) },
		"file": func(p string) error { return os.WriteFile(p, nil, 0o777) },
	} {
		from := t.TempDir()
		if err := errors.Join(create(from+"/x"), os.Chmod(from+"/x", 0o777), os.Chown(from+"/x", 1234, 1234)); err != nil {
			t.Fatal(err)
		}
		src, err := Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		sources[name], to[name] = src, t.TempDir()
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	privilege.WithoutChown(t, func() {
		if err := d.MkdirAll("made", 0o777, MkdirOptions{UID: 1234, GID: 1234}); !errors.Is(err, unix.EPERM) {
			t.Errorf("got %v", err)
		}
		for name, src := range sources {
			if err := CopyTree(src, to[name], CopyOptions{}); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
	for _, path := range []string{filepath.Join(host, "tree/made"), to["dir"] + "/x", to["file"] + "/x"} {
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, fi, err)
		}
	}
}
