package rootfs

import (
	"os"
	"path/filepath"
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
