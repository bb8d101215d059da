package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs a filter on made-up calls. x/net/bpf reads words in network order, so the
// words of seccomp_data are given in that order.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, f *Filter) machine {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(f.Program))
	for i, in := range f.Program {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	insns, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("filter has unknown instructions")
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func (m machine) run(t testing.TB, arch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	v, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

func mustCompile(t testing.TB, s *specs.LinuxSeccomp, goarch string) *Filter {
	t.Helper()
	f, err := compileFor(s, goarch)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	allowed = unix.SECCOMP_RET_ALLOW
	eperm   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enosys  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	killed  = unix.SECCOMP_RET_KILL_PROCESS
)

func TestDefaultProfile(t *testing.T) {
	profile, err := Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, mustCompile(t, profile, "amd64"))
	const amd64, i386 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	for _, tt := range []struct {
		name string
		arch uint32
		nr   uint32
		args [6]uint64
		want uint32
	}{
		{"read", amd64, unix.SYS_READ, [6]uint64{}, allowed},
		{"mount", amd64, unix.SYS_MOUNT, [6]uint64{}, eperm},
		{"setns", amd64, unix.SYS_SETNS, [6]uint64{}, eperm},
		{"unshare", amd64, unix.SYS_UNSHARE, [6]uint64{unix.CLONE_NEWUSER}, eperm},
		{"keyctl", amd64, unix.SYS_KEYCTL, [6]uint64{}, eperm},
		{"add_key", amd64, unix.SYS_ADD_KEY, [6]uint64{}, eperm},
		{"bpf", amd64, unix.SYS_BPF, [6]uint64{}, eperm},
		{"perf_event_open", amd64, unix.SYS_PERF_EVENT_OPEN, [6]uint64{}, eperm},
		{"userfaultfd", amd64, unix.SYS_USERFAULTFD, [6]uint64{}, eperm},
		{"io_uring_setup", amd64, unix.SYS_IO_URING_SETUP, [6]uint64{}, eperm},
		{"kexec_load", amd64, unix.SYS_KEXEC_LOAD, [6]uint64{}, eperm},
		{"clone3", amd64, unix.SYS_CLONE3, [6]uint64{}, enosys},
		{"clone of a thread", amd64, unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allowed},
		{"clone of a user namespace", amd64, unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER | 17}, eperm},
		{"AF_INET", amd64, unix.SYS_SOCKET, [6]uint64{unix.AF_INET, 1}, allowed},
		{"AF_NETLINK", amd64, unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, 1}, allowed},
		{"AF_ALG", amd64, unix.SYS_SOCKET, [6]uint64{unix.AF_ALG, 5}, eperm},
		{"AF_ALG to the kernel", amd64, unix.SYS_SOCKET, [6]uint64{1<<40 | unix.AF_ALG, 5}, eperm},
		{"AF_VSOCK to the kernel", amd64, unix.SYS_SOCKET, [6]uint64{1<<32 | unix.AF_VSOCK, 1}, eperm},
		{"AF_INET to the kernel", amd64, unix.SYS_SOCKET, [6]uint64{0xffffffff<<32 | unix.AF_INET, 1}, allowed},
		{"x32 AF_ALG to the kernel", amd64, 0x40000000 + unix.SYS_SOCKET, [6]uint64{1<<40 | unix.AF_ALG, 5}, eperm},
		{"ADDR_NO_RANDOMIZE to the kernel", amd64, unix.SYS_PERSONALITY, [6]uint64{1<<32 | 0x40000}, eperm},
		{"AF_VSOCK", amd64, unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, 1}, eperm},
		{"AF 45", amd64, unix.SYS_SOCKET, [6]uint64{45, 1}, allowed},
		{"personality", amd64, unix.SYS_PERSONALITY, [6]uint64{0xffffffff}, allowed},
		{"ADDR_NO_RANDOMIZE", amd64, unix.SYS_PERSONALITY, [6]uint64{0x40000}, eperm},
		{"unknown", amd64, 600, [6]uint64{}, enosys},
		{"x32 read", amd64, 0x40000000, [6]uint64{}, allowed},
		{"x32 readv", amd64, 0x40000000 + 515, [6]uint64{}, allowed},
		{"x32 with the 64-bit number of readv", amd64, 0x40000000 + 19, [6]uint64{}, eperm},
		{"x32 unknown", amd64, 0x40000000 + 600, [6]uint64{}, enosys},
		{"negative", amd64, 0xffffffff, [6]uint64{}, enosys},
		{"int 0x80 getpid", i386, 20, [6]uint64{}, allowed},
		{"int 0x80 mount", i386, 21, [6]uint64{}, eperm},
		{"int 0x80 unknown", i386, 600, [6]uint64{}, enosys},
		{"other architecture", unix.AUDIT_ARCH_AARCH64, 0, [6]uint64{}, killed},
	} {
		if got := m.run(t, tt.arch, tt.nr, tt.args); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

// reference decides one call straight from the profile, with no segments and no jumps.
func reference(s *specs.LinuxSeccomp, t table, nr uint32, args [6]uint64) uint32 {
	fallback, _ := action(s.DefaultAction, s.DefaultErrnoRet)
	numbers := maps.Collect(t.calls())
	newest, verdict, found := uint32(0), fallback, false
	for pass := range 2 { // rules with conditions go first
		for _, sc := range s.Syscalls {
			act, _ := action(sc.Action, sc.ErrnoRet)
			for _, name := range sc.Names {
				n, ok := numbers[name]
				if ok && n < t.private {
					newest = max(newest, n)
				}
				if !ok || n != nr || act == fallback || (len(sc.Args) == 0) != (pass == 1) || (found && pass == 0) {
					continue
				}
				if pass == 0 && holds(sc.Args, args, words(name)) {
					verdict, found = act, true
				}
				if pass == 1 && !found {
					verdict = act
				}
			}
		}
	}
	named := false
	for _, sc := range s.Syscalls {
		for _, name := range sc.Names {
			n, ok := numbers[name]
			named = named || (ok && n == nr)
		}
	}
	if nr > newest && !named && !permissive(s.DefaultAction) {
		return enosys
	}
	return verdict
}

func holds(conds []specs.LinuxSeccompArg, args [6]uint64, words uint8) bool {
	count := map[uint]int{}
	all, one, repeated := true, false, false
	for _, c := range conds {
		v, ok := args[c.Index], false
		if words>>c.Index&1 != 0 && c.Value|c.ValueTwo < 1<<32 {
			v &= 1<<32 - 1
		}
		switch c.Op {
		case specs.OpEqualTo:
			ok = v == c.Value
		case specs.OpNotEqual:
			ok = v != c.Value
		case specs.OpLessThan:
			ok = v < c.Value
		case specs.OpLessEqual:
			ok = v <= c.Value
		case specs.OpGreaterThan:
			ok = v > c.Value
		case specs.OpGreaterEqual:
			ok = v >= c.Value
		case specs.OpMaskedEqual:
			ok = v&c.Value == c.ValueTwo
		}
		all, one = all && ok, one || ok
		count[c.Index]++
		repeated = repeated || count[c.Index] > 1
	}
	if repeated {
		return one
	}
	return all
}

// points are argument values around everything the profile compares with.
func points(s *specs.LinuxSeccomp) []uint64 {
	seen := map[uint64]bool{0: true, 1: true, 1 << 32: true, ^uint64(0): true}
	for _, sc := range s.Syscalls {
		for _, a := range sc.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				for _, d := range []uint64{v, v + 1, v - 1, v ^ 1<<32, v | 1<<63} {
					seen[d] = true
				}
			}
		}
	}
	var all []uint64
	for v := range seen {
		all = append(all, v)
	}
	return all
}

func compareAll(t *testing.T, s *specs.LinuxSeccomp, goarch string) {
	t.Helper()
	m := newMachine(t, mustCompile(t, s, goarch))
	archs, err := archsOf(s.Architectures, goarch)
	if err != nil {
		t.Fatal(err)
	}
	conditional := map[string]bool{}
	for _, sc := range s.Syscalls {
		for _, n := range sc.Names {
			conditional[n] = conditional[n] || len(sc.Args) > 0
		}
	}
	count := 0
	for _, a := range archs {
		for _, tab := range a.tables {
			byNumber := map[uint32]string{}
			for name, n := range tab.calls() {
				byNumber[n] = name
			}
			var nrs []uint32
			for i := range uint32(700) {
				nrs = append(nrs, tab.base+i)
			}
			if tab.private < 1<<30 {
				nrs = append(nrs, tab.private, tab.private+1, tab.private+2, tab.private+99)
			}
			for _, nr := range nrs {
				values := []uint64{0}
				if conditional[byNumber[nr]] {
					values = points(s)
				}
				for _, v := range values {
					for i := range 3 {
						args := [6]uint64{}
						args[i], args[(i+1)%3] = v, values[count%len(values)]
						want := reference(s, tab, nr, args)
						if got := m.run(t, a.audit, nr, args); got != want {
							t.Fatalf("arch %#x call %d (%s) args %#x: %#x, want %#x", a.audit, nr, byNumber[nr], args, got, want)
						}
						count++
					}
				}
			}
		}
	}
	if count < 1000 {
		t.Errorf("only %d points compared", count)
	}
}

func TestFilterEqualsProfile(t *testing.T) {
	profile, err := Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	compareAll(t, profile, "amd64")
	arm := *profile
	arm.Architectures = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	compareAll(t, &arm, "arm64")

	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	for _, op := range ops {
		for _, value := range []uint64{0, 5, 1 << 32, 1<<32 + 7, 1<<63 + 1} {
			t.Run(fmt.Sprintf("%s %#x", op, value), func(t *testing.T) {
				n := uint(unix.EACCES)
				cond := specs.LinuxSeccompArg{Index: 1, Op: op, Value: value, ValueTwo: value & 0x100000005}
				narrow := specs.LinuxSeccompArg{Index: 1, Op: op, Value: value, ValueTwo: value & 5}
				compareAll(t, &specs.LinuxSeccomp{
					DefaultAction: specs.ActAllow,
					Architectures: []specs.Arch{specs.ArchX86},
					Syscalls: []specs.LinuxSyscall{
						{Names: []string{"mount"}, Action: specs.ActErrno, ErrnoRet: &n, Args: []specs.LinuxSeccompArg{
							cond, {Index: 2, Op: specs.OpGreaterThan, Value: 1}}},
						{Names: []string{"ioctl", "setns", "keyctl"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{narrow}},
						{Names: []string{"mount", "swapon"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{cond, cond}},
						{Names: []string{"swapon"}, Action: specs.ActKillProcess},
						{Names: []string{"reboot"}, Action: specs.ActLog},
						{Names: []string{"getpid"}, Action: specs.ActAllow},
					},
				}, "amd64")
			})
		}
	}
}

func TestActions(t *testing.T) {
	n := uint(7)
	for a, want := range map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x30000,
		specs.ActErrno: 0x50007, specs.ActTrace: 0x7ff00007, specs.ActLog: 0x7ffc0000, specs.ActNotify: 0x7fc00000,
	} {
		f := mustCompile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"getppid"}, Action: a, ErrnoRet: &n}}}, "amd64")
		if got := newMachine(t, f).run(t, unix.AUDIT_ARCH_X86_64, 110, [6]uint64{}); got != want || f.Notify != (a == specs.ActNotify) {
			t.Errorf("%s: %#x, want %#x; notify %v", a, got, want, f.Notify)
		}
	}
}

// TestTables: segments relies on the order of the calls, and on each having one number.
func TestTables(t *testing.T) {
	all := []specs.Arch{specs.ArchX32, specs.ArchX86, specs.ArchARM}
	for _, goarch := range []string{"amd64", "arm64", "riscv64"} {
		archs, err := archsOf(all, goarch)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range archs {
			last, seen := int64(-1), map[uint32]map[string]bool{}
			for _, table := range a.tables {
				seen[table.base] = map[string]bool{}
				for name, nr := range table.calls() {
					if int64(nr) <= last || seen[table.base][name] {
						t.Errorf("%s, table %#x: %s %d stands behind %d", goarch, table.base, name, nr, last)
					}
					last, seen[table.base][name] = int64(nr), true
				}
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	big := uint(1 << 20)
	for name, s := range map[string]*specs.LinuxSeccomp{
		"action":   {DefaultAction: "SCMP_ACT_X"},
		"errno":    {DefaultAction: specs.ActErrno, DefaultErrnoRet: &big},
		"flag":     {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"arch":     {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_NOSUCH"}},
		"operator": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Op: "X"}}}}},
		"argument": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
	} {
		if f, err := Compile(s); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if f, err := Compile(nil); f != nil || err != nil {
		t.Errorf("no section: %v, %v", f, err)
	}
}

func FuzzLoad(f *testing.F) {
	b, err := os.ReadFile("testdata/profile.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Load(b, nil)
		if err != nil || s == nil {
			return
		}
		filter, err := Compile(s)
		if err != nil {
			return
		}
		newMachine(t, filter).run(t, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{})
	})
}

func BenchmarkCompileDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		s, err := Default(nil)
		if err != nil {
			b.Fatal(err)
		}
		mustCompile(b, s, "amd64")
	}
}
