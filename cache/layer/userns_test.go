package layer_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/test/privilege"
)

// TestUserNamespace unpacks and stacks layers as root of a user namespace, with many IDs and with
// one only, where overlay attributes are user.overlay.* and devices cannot be made.
func TestUserNamespace(t *testing.T) {
	privilege.NeedRoot(t)
	if dir := os.Getenv("TEU_TEST_CHILD"); dir != "" {
		s := open(t, filepath.Join(dir, "layers"))
		lowers := func() []string {
			a := put(t, s, d("tmp").mode(0o1777), f("d/old", ""), f("gone", ""), f("own", "").owner(33, 33), dev(tar.TypeChar, "null", 1, 3))
			b := put(t, s, d("d"), opq("d"), f("d/new", "x").xattr("user.k", "v"), wh("gone"), f("tmp/a", "").mode(0o4755))
			stack, err := s.Stack(t.Context(), []string{a.ID, b.ID})
			must(t, err)
			return stack
		}()
		root := mounted(t, mount.Overlay{Lowers: lowers, UserXattr: mount.NeedsUserXattr()})
		want := []string{"d d", "d tmp", "f d/new x", "f own ", "f tmp/a "}
		if d := cmp.Diff(want, list(t, root, false)); d != "" {
			t.Error(d)
		}
		var owner syscall.Stat_t
		must(t, syscall.Stat(filepath.Join(root, "own"), &owner))
		if got, want := fmt.Sprint(owner.Uid), os.Getenv("TEU_TEST_OWNER"); got != want {
			t.Errorf("the owner is %s, want %s", got, want)
		}
		if fi, err := os.Stat(filepath.Join(root, "tmp")); err != nil || fi.Mode()&os.ModeSticky == 0 {
			t.Errorf("tmp is %v, %v, want it as below", fi, err)
		}
		return
	}
	for name, tc := range map[string]struct {
		size  int
		owner string
	}{"many IDs": {65536, "33"}, "one ID": {1, "0"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, 100000, 100000))
			cmd := child(t, "TestUserNamespace", dir, "TEU_TEST_OWNER="+tc.owner, "TMPDIR="+dir)
			cmd.Path = "/proc/self/exe" // the way to the test binary is closed to others
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: tc.size}}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
				Credential: &syscall.Credential{},
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
