package oci

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/test/privilege"
)

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		options []string
		want    mountOptions
	}{
		{nil, mountOptions{}},
		{[]string{"", "ro", "nosuid", "rw", ""}, mountOptions{here: attr{set: unix.MOUNT_ATTR_NOSUID, clear: unix.MOUNT_ATTR_RDONLY}}},
		{[]string{"rbind", "rro", "rslave"}, mountOptions{below: attr{set: unix.MOUNT_ATTR_RDONLY}, bind: true, recursive: true, propagation: []string{"rslave"}}},
		{[]string{"bind", "noatime"}, mountOptions{here: attr{set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME}, bind: true}},
		{[]string{"strictatime", "relatime", "size=5", "sync"}, mountOptions{here: attr{clear: unix.MOUNT_ATTR__ATIME}, data: []string{"size=5", "sync"}}},
		{[]string{"remount", "ridmap", "tmpcopyup"}, mountOptions{remount: true, idmap: "ridmap", copyUp: true}},
		{[]string{"rnoexec", "exec", "nodev", "dev", "nosymfollow"}, mountOptions{below: attr{set: unix.MOUNT_ATTR_NOEXEC},
			here: attr{set: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODEV}}},
	} {
		got, err := parseOptions(tt.options)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(mountOptions{}, attr{})); diff != "" || err != nil {
			t.Errorf("%q: %v %s", tt.options, err, diff)
		}
	}
}

func testSpec(t testing.TB) *specs.Spec {
	t.Helper()
	s, _, err := spec.New(ocispec.ImageConfig{Cmd: []string{"true"}}, spec.Options{TTY: true, Mounts: []spec.Mount{{Source: "/", Target: "/x"}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What cannot be done is refused and never left out.
func TestCompileRefuses(t *testing.T) {
	for name, change := range map[string]func(s *specs.Spec){
		"hooks":              func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}} },
		"mappings of mounts": func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"AppArmor":           func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"SELinux":            func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"mount label":        func(s *specs.Spec) { s.Linux.MountLabel = "x" },
		"listener":           func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/x" },
		"no pts for a tty":   func(s *specs.Spec) { s.Mounts = s.Mounts[:2] },
	} {
		s := testSpec(t)
		change(s)
		if name == "AppArmor" && spec.AppArmorEnabled() {
			continue // the host has it
		}
		if _, err := Compile(s, Rootfs{Path: "/"}, Options{}); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(s *specs.Spec){
		"no mapping": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		},
		"root is not mapped": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1, HostID: 1, Size: 5}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		},
		"id mappings": func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"idmap of nothing": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/y", Source: "/", Type: "bind", Options: []string{"idmap"}})
		},
		"notify":             func(s *specs.Spec) { s.Linux.Seccomp.Syscalls[0].Action = specs.ActNotify },
		"scheduler":          func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "x"} },
		"I/O priority":       func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "x"} },
		"memory policy":      func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "x"} },
		"memory nodes":       func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "3-1"} },
		"clock":              func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {}} },
		"no process":         func(s *specs.Spec) { s.Process = nil },
		"no command":         func(s *specs.Spec) { s.Process.Args = nil },
		"relative directory": func(s *specs.Spec) { s.Process.Cwd = "x" },
		"unknown namespace":  func(s *specs.Spec) { s.Linux.Namespaces[1].Type = "x" },
		"namespace twice":    func(s *specs.Spec) { s.Linux.Namespaces[1] = s.Linux.Namespaces[2] },
		"mount on the root":  func(s *specs.Spec) { s.Mounts[0].Destination = "/x/.." },
		"mask of the root":   func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"//"} },
		"relative mask":      func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"proc"} },
		"limit":              func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_X" },
		"limit twice":        func(s *specs.Spec) { s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0]) },
		"device":             func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "x", Type: "c"}} },
		"type of a device":   func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}} },
		"major number": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1<<12 + 1}}
		},
		"minor number": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Minor: -1}} },
		"propagation":  func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" },
		"host name": func(s *specs.Spec) {
			s.Hostname = "x"
			s.Linux.Namespaces = append(s.Linux.Namespaces[:4], s.Linux.Namespaces[5])
		},
	} {
		s := testSpec(t)
		change(s)
		if _, err := Compile(s, Rootfs{Path: "/"}, Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Compile(testSpec(t), Rootfs{}, Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error("no root:", err)
	}
	for dest, d := range map[string]Detached{"/nowhere": {Slot: 3}, "/x": {Slot: 2}} {
		if _, err := Compile(testSpec(t), Rootfs{Path: "/"}, Options{Detached: map[string]Detached{dest: d}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("detached %s %+v: %v", dest, d, err)
		}
	}
	s := testSpec(t)
	s.Process.Args[0] = "a\x00b"
	if p, err := Compile(s, Rootfs{Path: "/"}, Options{}); err == nil {
		t.Error("argument with a NUL:", p)
	}
}

func FuzzCompile(f *testing.F) {
	seed := testSpec(f)
	seed.Linux.Seccomp = nil // fuzzed where it is compiled
	b, err := json.Marshal(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"process":{"args":["x"],"cwd":"/"},"root":{"path":"x"},"linux":{"namespaces":[{"type":"mount"}],"maskedPaths":["/x"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s specs.Spec
		if json.Unmarshal(b, &s) != nil {
			return
		}
		p, err := Compile(&s, Rootfs{Path: "/"}, Options{})
		if err != nil {
			return
		}
		kept, err := p.MarshalBinary()
		if err != nil || new(launch.Program).UnmarshalBinary(kept) != nil {
			t.Errorf("program of %s cannot be kept: %v", b, err)
		}
		_ = p.String()
		if e, err := CompileExec(&s, s.Process, ExecOptions{}); err == nil {
			_ = e.String()
		}
	})
}

// int80 is an ELF program that makes one call by the 32-bit entry, and exits with 1 if it
// is refused.
func int80(nr byte) string {
	code := []byte{
		0xb8, nr, 0, 0, 0, // mov eax, nr
		0xcd, 0x80, // int 0x80
		0x31, 0xff, // xor edi, edi
		0x85, 0xc0, // test eax, eax
		0x79, 0x02, // jns +2
		0xff, 0xc7, // inc edi
		0xb8, 231, 0, 0, 0, // mov eax, exit_group
		0x0f, 0x05, // syscall
	}
	const base, header = 0x400000, 64 + 56
	u16 := func(v uint16) []byte { return []byte{byte(v), byte(v >> 8)} }
	var elf []byte
	for _, part := range [][]byte{
		[]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"), u16(2), u16(62), launch.Uint32(1),
		launch.Uint64(base + header), launch.Uint64(64), launch.Uint64(0), launch.Uint32(0), u16(64), u16(56), u16(1), u16(0), u16(0), u16(0),
		launch.Uint32(1), launch.Uint32(5), launch.Uint64(0), launch.Uint64(base), launch.Uint64(base),
		launch.Uint64(header + uint64(len(code))), launch.Uint64(header + uint64(len(code))), launch.Uint64(4096), code,
	} {
		elf = append(elf, part...)
	}
	return string(elf)
}

func TestSeccompOfTheOtherArchitecture(t *testing.T) {
	privilege.NeedRoot(t)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil || unix.ByteSliceToString(u.Machine[:]) != "x86_64" {
		t.Skip("needs x86_64")
	}
	b := newBundle(t)
	b.write("bin/getpid", int80(20), 0o755)
	b.write("bin/mount32", int80(21), 0o755)
	for name, want := range map[string]int{"getpid": 0, "mount32": 1} {
		if r := b.run(b.spec("", func(o *spec.Options) { o.Args = []string{name} })); r.err != nil || r.exit.Code != want {
			t.Errorf("%s: %+v, want %d", name, r, want)
		}
	}
}

func TestUngrantable(t *testing.T) {
	two := []string{"CAP_CHOWN", "CAP_KILL"}
	buildah := &specs.LinuxCapabilities{Bounding: two, Effective: two, Permitted: two, Ambient: two}
	for _, tt := range []struct {
		name string
		uid  uint32
		caps *specs.LinuxCapabilities
		want []string
	}{
		{"nothing asked", 0, nil, nil},
		{"an unknown one", 0, &specs.LinuxCapabilities{Bounding: []string{"CAP_NOSUCH"}}, []string{"ignoring unknown capability CAP_NOSUCH"}},
		{"ambient ones of a user", 7, buildah, []string{"can't raise ambient capability CAP_CHOWN, CAP_KILL: not inheritable and permitted"}},
		{"of root, who has them", 0, buildah, nil},
		{"of root, who has not", 0, &specs.LinuxCapabilities{Ambient: []string{"CAP_KILL"}, Permitted: two, Bounding: []string{"CAP_CHOWN"}},
			[]string{"can't raise ambient capability CAP_KILL: not inheritable and permitted"}},
		{"that can be raised", 7, &specs.LinuxCapabilities{Permitted: two, Inheritable: two, Ambient: two}, nil},
	} {
		p := &specs.Process{User: specs.User{UID: tt.uid}, Capabilities: tt.caps}
		if diff := cmp.Diff(tt.want, Ungrantable(p)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
