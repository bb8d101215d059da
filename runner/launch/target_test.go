package launch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// targetIn runs openTarget in a child and returns the path it arrived at, below root.
func targetIn(t *testing.T, root, path string, mode uint32) (string, error) {
	t.Helper()
	a := NewAssembler(Options{Slots: 4})
	r := a.Target(Int(3), path, mode)
	fd := a.Call(unix.SYS_DUP3, Result(r), Int(9), Int(0))
	_ = fd
	a.Call(unix.SYS_EXECVE, a.Str("/bin/readlink"), a.Strings([]string{"readlink", "/proc/self/fd/9"}), a.Strings(nil))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	c, err := Start(p, []*os.File{pr, pw, pw, dir})
	pw.Close()
	if err != nil {
		return "", err
	}
	b := make([]byte, 8192)
	n, _ := pr.Read(b)
	if exit, err := c.Wait(); err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	got := strings.TrimSpace(string(b[:n]))
	rel, err := filepath.Rel(root, got)
	if err != nil || strings.HasPrefix(rel, "..") {
		t.Fatalf("%s: %q is outside the root", path, got)
	}
	return rel, nil
}

func TestTarget(t *testing.T) {
	const dir, file = unix.S_IFDIR | 0o700, unix.S_IFREG | 0o640
	long := strings.Repeat("a/", 100) + "b"
	for _, tt := range []struct {
		name, link, path string
		mode             uint32
		want             string
		err              error
	}{
		{name: "missing directory", path: "/a/b/c", mode: dir, want: "a/b/c"},
		{name: "missing file", path: "a//b/./c", mode: file, want: "a/b/c"},
		{name: "trailing slash", path: "/a/b/", mode: dir, want: "a/b"},
		{name: "root", path: "/", mode: dir, want: "."},
		{name: "parent of missing", path: "/a/b/../c", mode: dir, want: "a/c"},
		{name: "above the root", path: "/../../a", mode: dir, want: "a"},
		{name: "deep", path: long, mode: file, want: long},
		{name: "absolute link", link: "/x/y", path: "/l/b", mode: file, want: "x/y/b"},
		{name: "relative link", link: "x/y", path: "/l", mode: file, want: "x/y"},
		{name: "link out of the root", link: "../../../../../x", path: "/l", mode: file, want: "x"},
		{name: "link to itself", link: "l", path: "/l", mode: file, err: unix.ELOOP},
		{name: "link to a missing link's child", link: "/l/x", path: "/l", mode: file, err: unix.ELOOP},
		{name: "procfs link", link: "/proc/self/root/x", path: "/l", mode: file, want: "proc/self/root/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := t.TempDir()
			root := filepath.Join(base, "root")
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if tt.link != "" {
				if err := os.Symlink(tt.link, filepath.Join(root, "l")); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time everything is there
				got, err := targetIn(t, root, tt.path, tt.mode)
				if !errors.Is(err, tt.err) || got != tt.want {
					t.Fatalf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
				}
			}
			if all, _ := os.ReadDir(base); len(all) != 1 {
				t.Errorf("outside the root: %v", all)
			}
			if tt.err != nil || tt.want == "." {
				return
			}
			info, err := os.Lstat(filepath.Join(root, tt.want))
			if err != nil || info.Mode().Perm() != os.FileMode(tt.mode&0o777) || info.IsDir() != (tt.mode == dir) {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

func TestTargetNeverEndsOutsideWhileRacing(t *testing.T) {
	base := t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root + "/d", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, root+"/l"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan bool), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			unix.Renameat2(unix.AT_FDCWD, root+"/d", unix.AT_FDCWD, root+"/l", unix.RENAME_EXCHANGE)
			n++
		}
	}()
	for i := range 300 {
		// A file made there may be anywhere in the root, or the attempt may fail.
		_, err := targetIn(t, root, "/d/x/y"+strings.Repeat("z", i%5), unix.S_IFREG|0o644)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	close(stop)
	if n := <-done; n < 10000 {
		t.Fatalf("only %d exchanges", n)
	}
	if all, _ := os.ReadDir(outside); len(all) != 0 {
		t.Errorf("made outside: %v", all)
	}
}
