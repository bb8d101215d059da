package oci

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Without mount_setattr(2) every mount of a container has the same flags and propagation as with it.
func TestMountsWithoutSetattr(t *testing.T) {
	b := newBundle(t)
	for _, m := range []struct {
		path  string
		flags uintptr
	}{{"/data/sub", unix.MS_NOEXEC}, {"/data/sub/a b", unix.MS_NOSUID | unix.MS_NOATIME}} {
		if err := os.MkdirAll(b.dir+m.path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", b.dir+m.path, "tmpfs", m.flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(b.dir+m.path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	for _, dir := range []string{"/data/sub/deep", "/other"} {
		if err := os.MkdirAll(b.dir+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := b.spec(`while read -r a b c d path flags rest; do echo $path $flags ${rest%%- *}; done < /proc/self/mountinfo
		exec 2>/dev/null; for f in /x /all/x /all/sub/x /sub/x /below/x /below/sub/x /file /dev/x /sys/x /sys/fs/cgroup/x; do touch $f && echo wrote $f; done`, nil)
	s.Linux.RootfsPropagation = "shared"
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/below", "/file", "/missing")
	bind := func(source, dest string, options ...string) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: b.dir + source, Destination: dest, Options: options})
	}
	bind("/data", "/all", "rbind", "rro", "rnosuid", "noatime")
	bind("/data", "/below", "rbind", "nodev", "rslave")
	bind("/data/sub", "/sub", "bind", "ro", "exec", "strictatime", "nosymfollow")
	bind("/other", "/all/sub/deep", "bind", "noexec", "nodiratime", "shared")
	bind("/file", "/file", "bind", "nosuid")
	bind("/other", "/again", "bind", "noexec", "ro")
	bind("/other", "/again", "remount", "bind", "rw", "relatime")
	s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Destination: "/tmpfs", Options: []string{"ro", "nosymfollow", "size=1m"}},
		specs.Mount{Type: "tmpfs", Destination: "/noatime", Options: []string{"noatime"}})
	var got [2]string
	for i, old := range []bool{false, true} {
		p, err := Compile(s, Rootfs{Path: b.root}, Options{oldKernel: old})
		if err != nil {
			t.Fatal(err)
		}
		if setattr := strings.Contains(p.String(), "mount_setattr("); setattr == old {
			t.Errorf("old kernel %v: the program calls mount_setattr: %v", old, setattr)
		}
		r := b.runRootfs(s, Rootfs{Path: b.root}, Options{oldKernel: old})
		if r.err != nil || r.exit.Code != 1 {
			t.Fatalf("old kernel %v: %+v, %v", old, r, r.err)
		}
		// Numbers of peer groups differ from run to run, those of the host's are not this test's.
		lines := strings.Split(r.out, "\n")
		for i, line := range lines {
			lines[i], _, _ = strings.Cut(line, ":")
		}
		got[i] = strings.Join(lines, "\n")
	}
	if got[0] != got[1] || !strings.Contains(got[0], "/all/sub/a\\040b ro,nosuid,noatime") || !strings.Contains(got[0], "/noatime rw,noatime") {
		t.Errorf("with mount_setattr:\n%s\nwithout:\n%s", got[0], got[1])
	}
}

func TestMountsBelow(t *testing.T) {
	info := "20 1 0:1 / / rw - ext4 x rw\n21 20 0:2 / /a/b\\040c rw - tmpfs x rw\n22 20 0:3 / /a/b\\040c rw - tmpfs x rw\n" +
		"23 21 0:4 / /ab rw - tmpfs x rw\n24 21 0:4 / /a rw - tmpfs x rw\nshort\n"
	for dir, want := range map[string][]string{"/a": {"b c"}, "/": {"a/b c", "ab", "a"}, "/ab": nil} {
		if got := mountsBelow(info, dir); !slices.Equal(got, want) {
			t.Errorf("below %s: got %q, want %q", dir, got, want)
		}
	}
}
