package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// TestCopyTree copies what a copy is easily without: names of one file, attributes of directories,
// and owners that are others in the copy, those of access control lists too.
func TestCopyTree(t *testing.T) {
	privilege.NeedRoot(t)
	from, to := t.TempDir(), t.TempDir()
	err := os.Mkdir(filepath.Join(from, "d"), 0o750)
	if err == nil {
		err = os.WriteFile(filepath.Join(from, "d/file"), []byte("x"), 0o640)
	}
	if err == nil {
		err = os.Chown(filepath.Join(from, "d/file"), 5, 6)
	}
	if err == nil {
		err = os.Link(filepath.Join(from, "d/file"), filepath.Join(from, "other"))
	}
	if err != nil {
		t.Fatal(err)
	}
	// Version 2: user::rw-, user:7:r--, group::r--, group:8:r--, mask::r--, other::---.
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		8, 0, 4, 0, 8, 0, 0, 0, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	for name, value := range map[string][]byte{"user.x": []byte("y"), "user.overlay.opaque": []byte("y"), "system.posix_acl_access": acl} {
		if err := unix.Setxattr(filepath.Join(from, "d"), name, value, 0); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	d, err := Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = CopyTree(d, to, CopyOptions{Owner: func(uid, gid int) (int, int, error) { return uid + 100, gid + 200, nil }})
	if err != nil {
		t.Fatal(err)
	}
	var file, other syscall.Stat_t
	if err := syscall.Stat(filepath.Join(to, "d/file"), &file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(filepath.Join(to, "other"), &other); err != nil || file.Ino != other.Ino {
		t.Errorf("one file has become two: %v", err)
	}
	if file.Uid != 105 || file.Gid != 206 || file.Mode&0o777 != 0o640 {
		t.Errorf("the file is %d:%d %o", file.Uid, file.Gid, file.Mode)
	}
	value := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(to, "d"), "user.x", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("user.x: %q, %v", value[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(filepath.Join(to, "d"), "user.overlay.opaque", value); err != unix.ENODATA {
		t.Errorf("an attribute of how it is stored was copied: %v", err)
	}
	n, err := unix.Getxattr(filepath.Join(to, "d"), "system.posix_acl_access", value)
	if err != nil || n != len(acl) || value[16] != 107 || value[32] != 208 {
		t.Errorf("the access control list is %v, %v", value[:max(n, 0)], err)
	}
}

// TestCopyTreeBesideOthers changes the copy while it is made, as a container may that has the volume: what
// the links lead to stays as it is.
func TestCopyTreeBesideOthers(t *testing.T) {
	privilege.NeedRoot(t)
	from, outside := t.TempDir(), t.TempDir()
	for i := range 20 {
		dir := filepath.Join(from, "d", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chown(dir, 5, 6), os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"first", "second"} { // of one file
		if err := os.Link(filepath.Join(from, "d/0/file"), filepath.Join(from, "d", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	swapped := 0
	for round := range 100 {
		to, done := t.TempDir(), make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				name := filepath.Join(to, "d", strconv.Itoa(i%20))
				if i%50 == 0 {
					name = filepath.Join(to, "d")
				}
				if os.Rename(name, filepath.Join(to, "away"+strconv.Itoa(i))) == nil && os.Symlink(outside, name) == nil {
					swapped++
				}
			}
		})
		CopyTree(d, to, CopyOptions{}) // may fail
		close(done)
		others.Wait()
		entries, err := os.ReadDir(outside)
		var st syscall.Stat_t
		if err := errors.Join(err, syscall.Stat(outside, &st)); err != nil {
			t.Fatal(err)
		}
		if len(entries) > 0 || st.Mode&0o7777 != 0o700 || st.Uid != 0 || st.Gid != 0 {
			t.Fatalf("round %d has changed what is outside: %v, mode %o, owner %d:%d", round, entries, st.Mode&0o7777, st.Uid, st.Gid)
		}
	}
	if swapped == 0 {
		t.Error("nobody was fast enough")
	}
}

// A hole costs the copy nothing either.
func TestCopyTreeKeepsHoles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	const size = 1 << 33
	for name, data := range map[string]map[int64]string{
		"empty": nil, "begin": {0: "first"}, "middle": {1 << 32: "here"}, "end": {size - 3: "end"}, "several": {4096: "a", 1 << 30: "b", size - 1: "c"},
	} {
		f, err := os.Create(filepath.Join(from, name))
		if err == nil {
			err = f.Truncate(size)
		}
		for at, text := range data {
			if err == nil {
				_, err = f.WriteAt([]byte(text), at)
			}
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		root, err := Open(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(CopyTree(root, to, CopyOptions{}), root.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(to, name), &st); err != nil || st.Size != size || st.Blocks > 1<<12 {
			t.Errorf("%s: %d bytes in %d blocks, %v", name, st.Size, st.Blocks, err)
		}
		copied, err := os.Open(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		for at, text := range data {
			got := make([]byte, len(text))
			if _, err := copied.ReadAt(got, at); err != nil || string(got) != text {
				t.Errorf("%s: %q at %d, %v", name, got, at, err)
			}
		}
		copied.Close()
		for _, dir := range []string{from, to} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
