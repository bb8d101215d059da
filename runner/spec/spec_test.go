package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// files is a root filesystem in memory.
type files map[string]string

func (f files) ReadFile(path string, limit int64) ([]byte, error) {
	text, ok := f[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: %w", path, errdefs.ErrResourceExhausted)
	}
	return []byte(text), nil
}

func accounts() files {
	return files{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n1234:x:77:78::/digits:/bin/sh\n" +
			"wrap:x:4294967296:0::/:\nneg:x:-5:0::/:\nbad line\nnohome:x:50:50:::\n",
		"/etc/group": "root:x:0:\nwheel:x:10:root,ann\nann:x:1001:\naudio:x:29:ann\nhuge:x:4294967296:big\n",
	}
}

func TestUsers(t *testing.T) {
	for _, tt := range []struct {
		name, user string
		groups     []string
		want       specs.User
		home       string
		err        error
	}{
		{"nobody said", "", nil, specs.User{AdditionalGids: []uint32{0, 10}}, "/root", nil},
		{"name", "ann", nil, specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10, 29, 1001}}, "/home/ann", nil},
		{"number of a user", "1000", nil, specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10, 29, 1001}}, "/home/ann", nil},
		{"number of nobody", "4000", nil, specs.User{UID: 4000, AdditionalGids: []uint32{0}}, "/", nil},
		{"name of digits is a number", "1234", nil, specs.User{UID: 1234, AdditionalGids: []uint32{0}}, "/", nil},
		{"group", "ann:audio", nil, specs.User{UID: 1000, GID: 29, AdditionalGids: []uint32{29}}, "/home/ann", nil},
		{"numbers", "5:6", nil, specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{6}}, "/", nil},
		{"empty group", "1000:", nil, specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10, 29, 1001}}, "/home/ann", nil},
		{"only a group", ":5", nil, specs.User{GID: 5, AdditionalGids: []uint32{5}}, "/root", nil},
		{"no home", "nohome", nil, specs.User{UID: 50, GID: 50, AdditionalGids: []uint32{50}}, "/", nil},
		{"added groups", "5", []string{"audio", "99", "29"}, specs.User{UID: 5, AdditionalGids: []uint32{0, 29, 99}}, "/", nil},
		{"largest", "2147483647:2147483647", nil, specs.User{UID: 1<<31 - 1, GID: 1<<31 - 1, AdditionalGids: []uint32{1<<31 - 1}}, "/", nil},
		{"unknown", "bob", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"unknown group", "ann:staff", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"unknown added group", "ann", []string{"staff"}, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"2^32", "4294967296", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"2^31", "2147483648:0", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"-1", "-1", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"group 2^32", "0:4294967296", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"added group -1", "0", []string{"-1"}, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"wraps in passwd", "wrap", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"negative in passwd", "neg", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
		{"colons", "a:b:c", nil, specs.User{}, "", errdefs.ErrInvalidArgument},
	} {
		u, home, err := resolveUser(accounts(), tt.user, tt.groups)
		if tt.err != nil {
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: %+v, %v, want %v", tt.name, u, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, u); diff != "" || err != nil || home != tt.home {
			t.Errorf("%s: home %q, %v %s", tt.name, home, err, diff)
		}
	}
	if u, _, err := resolveUser(nil, "5:6", nil); err != nil || u.UID != 5 || u.GID != 6 {
		t.Errorf("without files: %+v, %v", u, err)
	}
	if _, _, err := resolveUser(nil, "ann", nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("name without files: %v", err)
	}
}

// The files of an image may be anything; none of it may hang or fill the memory.
func TestHostileAccountFiles(t *testing.T) {
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := dir + "/etc/passwd"
	for name, make := range map[string]func() error{
		"fifo":      func() error { return unix.Mkfifo(passwd, 0o644) },
		"directory": func() error { return os.Mkdir(passwd, 0o755) },
		"1 GB": func() error {
			if err := os.WriteFile(passwd, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(passwd, 1<<30)
		},
		"long line": func() error { return os.WriteFile(passwd, []byte("root:"+strings.Repeat("x", 1<<20)), 0o644) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if u, _, err := resolveUser(root, "ann", nil); err == nil {
			t.Errorf("%s: %+v", name, u)
		}
		if err := os.Remove(passwd); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/proc/self/environ", passwd); err != nil {
		t.Fatal(err)
	}
	if _, _, err := resolveUser(root, "ann", nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("link out of the root: %v", err)
	}
}

func FuzzUser(f *testing.F) {
	a := accounts()
	f.Add("ann", a["/etc/passwd"], a["/etc/group"])
	f.Add("0:0", "::\n", "x")
	f.Fuzz(func(t *testing.T, name, passwd, group string) {
		u, _, err := resolveUser(files{"/etc/passwd": passwd, "/etc/group": group}, name, []string{"29"})
		if err == nil && (u.UID > maxID || u.GID > maxID || !slices.Contains(u.AdditionalGids, u.GID)) {
			t.Errorf("%q: %+v", name, u)
		}
	})
}

func mustNew(t *testing.T, img ocispec.ImageConfig, o Options) *specs.Spec {
	t.Helper()
	if o.Args == nil && img.Cmd == nil && img.Entrypoint == nil {
		o.Args = []string{"true"}
	}
	s, _, err := New(img, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMergeEnv(t *testing.T) {
	got := MergeEnv([]string{"B=mine", "GONE", "A=1"}, []string{"PATH=/x", "GONE=2", "B=theirs", "C=3"})
	if diff := cmp.Diff([]string{"B=mine", "GONE", "A=1", "PATH=/x", "C=3"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HOST_SECRET", "secret")
	img := ocispec.ImageConfig{Env: []string{"HOST_SECRET", "*", "A=", "=x", "B=1", "B=2", "PATH=/x", "C=3"}}
	got := mustNew(t, img, Options{TTY: true, Hostname: "h", Env: []string{"C", "D=a=b", "HOST_SECRET"}, Files: accounts()}).Process.Env
	want := []string{"PATH=/x", "HOSTNAME=h", "TERM=xterm", "D=a=b", "A=", "B=2", "HOME=/root"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s := mustNew(t, ocispec.ImageConfig{Env: []string{"HOME=/mine"}}, Options{Files: accounts()})
	for _, tt := range []struct {
		spec *specs.Spec
		o    ExecOptions
		home string
	}{
		{s, ExecOptions{User: "ann"}, "HOME=/mine"},
		{mustNew(t, img, Options{Files: accounts()}), ExecOptions{User: "ann"}, "HOME=/home/ann"},
		{mustNew(t, img, Options{Files: accounts()}), ExecOptions{}, "HOME=/root"},
		{mustNew(t, img, Options{Files: accounts()}), ExecOptions{User: "ann", Env: []string{"HOME=/e"}}, "HOME=/e"},
	} {
		tt.o.Args, tt.o.Files = []string{"x"}, accounts()
		p, err := NewExec(tt.spec, tt.o)
		if err != nil || !slices.Contains(p.Env, tt.home) || strings.Count(strings.Join(p.Env, "\n"), "HOME=") != 1 {
			t.Errorf("want %s: %q, %v", tt.home, p.Env, err)
		}
	}
}

// An exec is confined as the container is, a privileged one too.
func TestExecLabels(t *testing.T) {
	s := mustNew(t, ocispec.ImageConfig{}, Options{Files: accounts()})
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "profile", "a:b:c:s0"
	for _, privileged := range []bool{false, true} {
		p, err := NewExec(s, ExecOptions{Args: []string{"x"}, Privileged: privileged, Files: accounts()})
		if err != nil || p.ApparmorProfile != "profile" || p.SelinuxLabel != "a:b:c:s0" {
			t.Errorf("privileged %v: %+v, %v", privileged, p, err)
		}
	}
}

func TestCommand(t *testing.T) {
	img := ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"a", "b"}, WorkingDir: "w/../dir"}
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"image's", Options{}, "/entry a b"},
		{"arguments", Options{Args: []string{"c"}}, "/entry c"},
		{"entry point", Options{Entrypoint: []string{"/e"}}, "/e"},
		{"both", Options{Entrypoint: []string{"/e"}, Args: []string{"c"}}, "/e c"},
		{"no entry point", Options{ClearEntrypoint: true, Args: []string{"c"}}, "c"},
		{"nothing", Options{ClearEntrypoint: true}, ""},
	} {
		s, _, err := New(img, tt.o)
		switch {
		case tt.want == "":
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%s: %v", tt.name, err)
			}
		case err != nil || strings.Join(s.Process.Args, " ") != tt.want || s.Process.Cwd != "/dir":
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
	}
	for name, o := range map[string]Options{
		"relative directory": {WorkingDir: "x"}, "namespace": {NetNS: "bridge"}, "capability": {CapAdd: []string{"NO_SUCH"}},
		"limit": {Rlimits: []specs.POSIXRlimit{{Type: "nosuch"}}}, "soft above hard": {Rlimits: []specs.POSIXRlimit{{Type: "core", Soft: 2, Hard: 1}}},
		"mount on the root": {Mounts: []Mount{{Source: "/", Target: "/"}}}, "relative target": {Mounts: []Mount{{Source: "/", Target: "x"}}},
		"relative source": {Mounts: []Mount{{Source: "x", Target: "/x"}}}, "type": {Mounts: []Mount{{Type: "nfs", Target: "/x"}}},
		"same target": {Mounts: []Mount{{Source: "/a", Target: "/x"}, {Source: "/b", Target: "/x/"}}},
		"no device":   {Devices: []Device{{Source: "/etc/passwd", Target: "/dev/x"}}}, "device place": {Devices: []Device{{Source: "/dev/null", Target: "/x"}}},
		"access": {Devices: []Device{{Source: "/dev/null", Access: "x"}}}, "profile": {Seccomp: "{"}, "NUL": {Args: []string{"a\x00b"}},
	} {
		if o.Args == nil {
			o.Args = []string{"true"}
		}
		if s, _, err := New(img, o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		add, drop []string
		want      []string // nil: docker's
	}{
		{nil, nil, defaultCapabilities()},
		{nil, []string{"ALL"}, nil},
		{[]string{"chown", "CAP_KILL"}, []string{"all"}, []string{"CAP_CHOWN", "CAP_KILL"}},
		{[]string{"NET_ADMIN"}, []string{"MKNOD"}, append(slices.DeleteFunc(defaultCapabilities(), func(s string) bool { return s == "CAP_MKNOD" }), "CAP_NET_ADMIN")},
	} {
		m := &maker{o: Options{CapAdd: tt.add, CapDrop: tt.drop}}
		got, err := m.capabilityList()
		want := slices.DeleteFunc(slices.Clone(tt.want), func(c string) bool { return !slices.Contains(hostCapabilities(), c) })
		if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 || err != nil {
			t.Errorf("add %v drop %v: %v %s", tt.add, tt.drop, err, diff)
		}
	}
	m := &maker{o: Options{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}}
	if got, err := m.capabilityList(); err != nil || slices.Contains(got, "CAP_SYS_ADMIN") {
		t.Errorf("%v, %v", got, err)
	}
	s := mustNew(t, ocispec.ImageConfig{User: "5"}, Options{})
	if c := s.Process.Capabilities; len(c.Effective)+len(c.Permitted)+len(c.Inheritable)+len(c.Ambient) != 0 {
		t.Errorf("user 5 has %+v", c)
	}
}

func TestMountsOfTheUserReplaceDefaults(t *testing.T) {
	s := mustNew(t, ocispec.ImageConfig{}, Options{Mounts: []Mount{
		{Source: "/a", Target: "/x/y", ReadOnly: true}, {Source: "/b", Target: "/x", ReadOnly: true, Propagation: "rslave"},
		{Type: "tmpfs", Target: "/dev/shm"}, {Source: "/c", Target: "/z", NoRecursive: true, ReadOnly: true},
	}})
	var got []string
	for _, m := range s.Mounts {
		got = append(got, m.Destination+" "+m.Type+" "+strings.Join(m.Options, ","))
	}
	if want := []string{
		"/x bind rbind,rslave,ro", "/z bind bind,rprivate,ro", "/x/y bind rbind,rprivate,ro,rro", "/dev/shm tmpfs noexec,nosuid,nodev",
	}; !cmp.Equal(got[len(got)-4:], want) || strings.Count(strings.Join(got, "\n"), "/dev/shm") != 1 {
		t.Errorf("got %q, want %q last", got, want)
	}
	s = mustNew(t, ocispec.ImageConfig{}, Options{Mounts: []Mount{{Source: "/dev", Target: "/dev"}}})
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/dev/") {
			t.Errorf("%s is mounted although the user has a /dev", m.Destination)
		}
	}
}

// What an image says about itself is not an option of the engine (CVE-2026-53488).
func TestLabelsOfTheImageDoNothing(t *testing.T) {
	plain := mustNew(t, ocispec.ImageConfig{}, Options{})
	labels := map[string]string{"teu.privileged": "true", "com.docker.compose.x": "1", "io.kubernetes.cri-o.userns-mode": "auto", "run.oci.handler": "krun"}
	if diff := cmp.Diff(plain, mustNew(t, ocispec.ImageConfig{Labels: labels}, Options{})); diff != "" {
		t.Error(diff)
	}
}

func TestLimitsAreClamped(t *testing.T) {
	s, warnings, err := New(ocispec.ImageConfig{Cmd: []string{"x"}}, Options{Rlimits: []specs.POSIXRlimit{{Type: "nofile", Soft: 1 << 40, Hard: 1 << 40}}})
	if err != nil {
		t.Fatal(err)
	}
	own, _ := ownLimit(unix.RLIMIT_NOFILE)
	got := s.Process.Rlimits[0]
	if hasCapability(capSysResource) != (got.Hard == 1<<40) || (got.Hard != 1<<40 && (got.Hard != own || len(warnings) != 1)) {
		t.Errorf("%+v, %v", got, warnings)
	}
}

func TestExecHasNoHigherLimits(t *testing.T) {
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := New(ocispec.ImageConfig{Cmd: []string{"x"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 41}, {Type: "RLIMIT_CORE", Soft: 1, Hard: 2}, {Type: "RLIMIT_NICE", Soft: 3, Hard: 4}}
	of := func(limits string) []specs.POSIXRlimit {
		p, err := NewExec(s, ExecOptions{Args: []string{"x"}, Limits: []byte(limits)})
		if err != nil {
			t.Fatal(err)
		}
		return p.Rlimits
	}
	own, _ := ownLimit(unix.RLIMIT_NOFILE)
	if got := of(string(limits))[0]; got.Hard != own || got.Soft != own {
		t.Errorf("%+v where we have %d", got, own)
	}
	for _, text := range []string{"", "Limit\n", strings.Repeat("\n", 20), strings.Repeat("Max of something or other  unlimited  unlimited  files\n", 17)} {
		if diff := cmp.Diff(s.Process.Rlimits, of(text)); diff != "" {
			t.Errorf("limits %q: %s", text, diff)
		}
	}
}

// What an ordinary user gets maps nobody else and asks for nothing of the host's.
func TestRootless(t *testing.T) {
	s, _, err := New(ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	Rootless(s, 1000, 100)
	if diff := cmp.Diff([]specs.LinuxIDMapping{{HostID: 1000, Size: 1}}, s.Linux.UIDMappings); diff != "" {
		t.Error(diff)
	}
	if s.Linux.GIDMappings[0].HostID != 100 || s.Linux.Resources != nil || len(s.Process.Capabilities.Effective) != 14 {
		t.Errorf("%+v %+v", s.Linux.GIDMappings, s.Process.Capabilities)
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			t.Error("a network namespace, in which nothing could be configured")
		}
	}
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/sys/") || slices.Contains(m.Options, "gid=5") {
			t.Errorf("%+v", m)
		}
	}
}
