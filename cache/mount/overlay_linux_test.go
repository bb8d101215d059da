package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// tree makes a directory with the files given as path, content pairs.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, m *os.File, path string) (string, error) {
	t.Helper()
	fd, err := unix.Openat(int(m.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	buf := make([]byte, 100)
	n, _ := f.Read(buf)
	return string(buf[:n]), nil
}

func write(m *os.File, path string) error {
	fd, err := unix.Openat(int(m.Fd()), path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// ways are the two means of making a mount; each must pass the same tests.
func ways(t *testing.T, test func(t *testing.T, open func(Overlay) (*os.File, error))) {
	privilege.NeedRoot(t)
	t.Run("fsopen", func(t *testing.T) {
		test(t, func(o Overlay) (*os.File, error) {
			d, err := o.open()
			if err != nil {
				return nil, err
			}
			defer d.close()
			return o.fsmount(d)
		})
	})
	t.Run("mount", func(t *testing.T) {
		test(t, func(o Overlay) (*os.File, error) {
			d, err := o.open()
			if err != nil {
				return nil, err
			}
			defer d.close()
			return o.classic(d)
		})
	})
}

func TestOneLowerHidesItsWhiteouts(t *testing.T) {
	ways(t, func(t *testing.T, open func(Overlay) (*os.File, error)) {
		lower := tree(t, "a", "1", "b", "2")
		if err := os.Remove(filepath.Join(lower, "b")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(filepath.Join(lower, "b"), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
		m, err := open(Overlay{Lowers: []string{lower}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if got, err := read(t, m, "a"); got != "1" || err != nil {
			t.Errorf("a is %q, %v", got, err)
		}
		if got := names(t, m); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the root has %v", got)
		}
		if _, err := read(t, m, "b"); err != unix.ENOENT {
			t.Errorf("opening a whiteout: got %v, want ENOENT", err)
		}
		if err := write(m, "c"); err != unix.EROFS {
			t.Errorf("writing without an upper: got %v, want EROFS", err)
		}
	})
}

func TestTopLowerWinsAndWritesGoToUpper(t *testing.T) {
	ways(t, func(t *testing.T, open func(Overlay) (*os.File, error)) {
		base := t.TempDir()
		upper, work := filepath.Join(base, "upper"), filepath.Join(base, "work")
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
			t.Fatal(err)
		}
		m, err := open(Overlay{
			Lowers: []string{tree(t, "x", "top"), tree(t, "x", "bottom", "y", "below")},
			Upper:  upper, Work: work, Volatile: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for path, want := range map[string]string{"x": "top", "y": "below"} {
			if got, err := read(t, m, path); got != want || err != nil {
				t.Errorf("%s is %q, %v, want %q", path, got, err, want)
			}
		}
		if err := write(m, "new"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(upper, "new")); err != nil {
			t.Error(err)
		}
	})
}

func TestManyLowersWithLongAndOddNames(t *testing.T) {
	ways(t, func(t *testing.T, open func(Overlay) (*os.File, error)) {
		base := t.TempDir()
		var lowers []string
		for i := range 150 { // 150 real paths are more than a page
			dir := filepath.Join(base, fmt.Sprintf("a:b,c\\d %03d", i), strings.Repeat("n", 200))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("ok"), 0o644); err != nil {
				t.Fatal(err)
			}
			lowers = append(lowers, dir)
		}
		m, err := open(Overlay{Lowers: lowers})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for i := range lowers {
			if got, err := read(t, m, fmt.Sprint(i)); got != "ok" || err != nil {
				t.Fatalf("file of layer %d is %q, %v", i, got, err)
			}
		}
	})
}

func TestMountAndUnmount(t *testing.T) {
	privilege.NeedRoot(t)
	target := t.TempDir()
	if err := (Overlay{Lowers: []string{tree(t, "a", "1")}}).Mount(target); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(target, "a")); string(got) != "1" || err != nil {
		t.Errorf("a is %q, %v", got, err)
	}
	for range 2 { // the second time nothing is mounted
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(target, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Unmount: got %v, want not exist", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, o := range map[string]Overlay{
		"no lower":           {},
		"upper without work": {Lowers: []string{"/"}, Upper: "/tmp"},
		"too many":           {Lowers: slices.Repeat([]string{"/"}, maxLowers+1)},
	} {
		if _, err := o.Open(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
	if _, err := (Overlay{Lowers: []string{"/does/not/exist"}}).Open(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing lower: got %v, want not exist", err)
	}
}

func TestErrorsKeepTheErrno(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	_, err := Overlay{Lowers: []string{dir, dir}, Upper: dir, Work: dir}.Open()
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ELOOP) {
		t.Fatalf("upper and work the same: got %v, want EINVAL or ELOOP", err)
	}
}

// names lists the root of m.
func names(t *testing.T, m *os.File) []string {
	t.Helper()
	fd, err := unix.Openat(int(m.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "root")
	defer f.Close()
	list, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}
