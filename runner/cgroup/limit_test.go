package cgroup

import (
	"errors"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		r      specs.LinuxResources
		v1, v2 []string
	}{
		{"nothing", specs.LinuxResources{}, nil, nil},
		{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20)}},
			[]string{"memory/memory.limit_in_bytes=67108864", "memory/memory.memsw.limit_in_bytes=100663296"},
			[]string{"/memory.max=67108864", "/memory.swap.max=33554432"}},
		{"no limit", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}, Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}},
			[]string{"memory/memory.limit_in_bytes=-1", "memory/memory.memsw.limit_in_bytes=-1", "pids/pids.max=max"}, []string{"/memory.max=max", "/memory.swap.max=max", "/pids.max=max"}},
		{"swap without end", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](1 << 20), Swap: ptr[int64](-1), Reservation: ptr[int64](5)}},
			[]string{"memory/memory.limit_in_bytes=1048576", "memory/memory.memsw.limit_in_bytes=-1", "memory/memory.soft_limit_in_bytes=5"},
			[]string{"/memory.max=1048576", "/memory.swap.max=max", "/memory.low=5"}},
		{"processor", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](50000), Period: ptr[uint64](100000), Shares: ptr[uint64](1024), Cpus: "0-1", Mems: "0"}},
			[]string{"cpu/cpu.shares=1024", "cpu/cpu.cfs_period_us=100000", "cpu/cpu.cfs_quota_us=50000", "cpuset/cpuset.cpus=0-1", "cpuset/cpuset.mems=0"},
			[]string{"/cpu.weight=100", "/cpu.max=50000 100000", "/cpuset.cpus=0-1", "/cpuset.mems=0"}},
		{"unified", specs.LinuxResources{Unified: map[string]string{"memory.high": "7"}, Pids: &specs.LinuxPids{Limit: ptr[int64](9)}},
			[]string{"pids/pids.max=9"}, []string{"/pids.max=9", "/memory.high=7"}},
		{"block devices", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](1000), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{
			{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8}, Rate: 7}}}},
			[]string{"blkio/blkio.throttle.read_bps_device=8:0 7", "blkio/blkio.weight=1000 or blkio.bfq.weight=1000"}, []string{"/io.max=8:0 rbps=7", "blkio/io.bfq.weight=1000 or io.weight=10000"}},
		{"huge pages and RDMA", specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 9}},
			Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr[uint32](3), HcaObjects: ptr[uint32](4)}}},
			[]string{"hugetlb/hugetlb.2MB.rsvd.limit_in_bytes=9", "hugetlb/hugetlb.2MB.limit_in_bytes=9", "rdma/rdma.max=mlx5_1 hca_handle=3 hca_object=4"},
			[]string{"hugetlb/hugetlb.2MB.rsvd.max=9", "hugetlb/hugetlb.2MB.max=9", "rdma/rdma.max=mlx5_1 hca_handle=3 hca_object=4"}},
		{"network", specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](5), Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 6}}}},
			[]string{"net_cls/net_cls.classid=5", "net_prio/net_prio.ifpriomap=lo 6"}, []string{"net_cls/net_cls.classid=5", "net_prio/net_prio.ifpriomap=lo 6"}},
	} {
		for mode, want := range map[string][]string{"v1": tt.v1, "v2": tt.v2} {
			h := &Host{mode: V1}
			if mode == "v2" {
				h = &Host{mode: V2, hierarchies: []Hierarchy{{Mountpoint: t.TempDir()}}}
			}
			var got []string
			for _, s := range h.Open("x").settings(&tt.r) {
				text := s.controller + "/" + s.file + "=" + s.value
				if s.instead != "" {
					text += " or " + s.instead + "=" + s.insteadValue
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: %s", tt.name, mode, diff)
			}
		}
	}
	for shares, want := range map[uint64]uint64{2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
}

// What a host cannot mean is refused.
func TestUnified(t *testing.T) {
	for _, tt := range []struct {
		mode Mode
		file string
		ok   bool
	}{{V2, "memory.high", true}, {V2, "../x", false}, {V2, "cgroup.procs", false}, {V1, "memory.high", false}} {
		g := (&Host{mode: tt.mode}).Open("x")
		if err := g.check(&specs.LinuxResources{Unified: map[string]string{tt.file: "1"}}); (err == nil) != tt.ok {
			t.Errorf("%v %s: %v", tt.mode, tt.file, err)
		}
	}
}

func TestSwappinessRange(t *testing.T) {
	for value, ok := range map[uint64]bool{0: true, 100: true, 101: false, math.MaxUint64 - 1: false, math.MaxUint64: true} {
		g := (&Host{mode: V1}).Open("x")
		if err := g.check(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &value}}); (err == nil) != ok {
			t.Errorf("%d: %v", value, err)
		}
	}
}

func TestPathsStayBelowTheHierarchies(t *testing.T) {
	h := &Host{mode: None}
	for _, path := range []string{"", "/", ".", "..", "a/../..", "../a", "a/../../b", "a\nb"} {
		if _, _, err := h.Create(path, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", path, err)
		}
	}
	g, warnings, err := h.Create("teu/x", &specs.LinuxResources{Pids: &specs.LinuxPids{}})
	if err != nil || len(warnings) != 1 || len(g.Procs()) != 0 || g.V2Dir() != "" {
		t.Errorf("without cgroups: %v, %v, %v", g, warnings, err)
	}
	if _, err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](5), Swap: ptr[int64](4)}}); err != nil {
		t.Error(err)
	}
}

// evaluate interprets the few instructions a device program has.
func evaluate(t *testing.T, prog []instruction, kind, access, major, minor uint32) bool {
	t.Helper()
	context := []uint32{access<<16 | kind, major, minor}
	var r [16]uint64
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		dst := in.regs & 15
		switch in.code {
		case loadW:
			r[dst] = uint64(context[in.off/4])
		case andImm:
			r[dst] = uint64(uint32(r[dst]) & uint32(in.imm))
		case rshImm:
			r[dst] = uint64(uint32(r[dst]) >> uint32(in.imm))
		case movImm:
			r[dst] = uint64(in.imm)
		case 0xbc: // mov32 of a register
			r[dst] = uint64(uint32(r[in.regs>>4]))
		case jne, 0x15:
			if (r[dst] == uint64(in.imm)) == (in.code == 0x15) {
				pc += int(in.off)
			}
		case exit:
			return r[0] != 0
		default:
			t.Fatalf("instruction %#x", in.code)
		}
	}
	t.Fatal("program has no end")
	return false
}

func TestDeviceProgram(t *testing.T) {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rwm"},
		{Allow: true, Type: "b", Major: ptr[int64](8), Access: "r"},
		{Allow: false, Type: "b", Major: ptr[int64](8), Minor: ptr[int64](1), Access: "w"},
		{Allow: true, Type: "c", Major: ptr[int64](136), Minor: ptr[int64](-1)},
		{Allow: true, Type: "c", Major: ptr[int64](42), Access: "r"},
		{Allow: true, Type: "c", Major: ptr[int64](42), Access: "w"},
		{Allow: false, Type: "c", Major: ptr[int64](42), Minor: ptr[int64](1), Access: "r"},
	}
	const m, r, w, block, char = 1, 2, 4, 1, 2
	prog := deviceProgram(rules)
	for _, tt := range []struct {
		kind, access, major, minor uint32
		want                       bool
	}{
		{char, r, 1, 3, true}, {char, r | w, 1, 3, true}, {char, m, 1, 3, true}, {block, r, 1, 3, false},
		{char, r, 1, 5, false}, {char, m, 1, 5, true}, {char, m | r, 1, 5, false},
		{block, r, 8, 0, true}, {block, w, 8, 0, false}, {block, r | w, 8, 0, false}, {block, r, 8, 1, true}, {block, w, 8, 1, false},
		{char, w, 136, 77, true}, {char, r, 137, 0, false},
		{char, r | w, 42, 0, true}, {char, r | w | m, 42, 0, true}, {char, r | w, 42, 1, false}, {char, w, 42, 1, true},
	} {
		if got := evaluate(t, prog, tt.kind, tt.access, tt.major, tt.minor); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if evaluate(t, deviceProgram([]specs.LinuxDeviceCgroup{{Allow: true}}), block, r|w|m, 8, 0) != true {
		t.Error("allow all does not")
	}
	if !slices.EqualFunc([]specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "rx"}, {Major: ptr[int64](1<<32 + 1)}}, []bool{false, false, false},
		func(r specs.LinuxDeviceCgroup, ok bool) bool { return (checkRule(r) == nil) == ok }) {
		t.Error("bad rules are accepted")
	}
}

// A new period of v2 leaves the quota as it is, with which it is in one file.
func TestPeriodKeepsTheQuota(t *testing.T) {
	dir := t.TempDir()
	g := (&Host{mode: V2, hierarchies: []Hierarchy{{Mountpoint: dir}}}).Open("/")
	for now, want := range map[string]string{"30000 100000": "30000 50000", "max 100000": "max 50000"} {
		if err := os.WriteFile(filepath.Join(dir, "cpu.max"), []byte(now+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr[uint64](50000)}}
		for file, value := range g.Files(r) {
			if file != "cpu.max" || value != want {
				t.Errorf("with %s: %s=%s, want %s", now, file, value, want)
			}
		}
	}
}

// Where the kernel counts shares of devices itself they are in a file of their own, which is
// the one systemd has a property for.
func TestFilesOfWeight(t *testing.T) {
	dir := t.TempDir()
	g := (&Host{mode: V2, hierarchies: []Hierarchy{{Mountpoint: dir}}}).Open("/")
	r := &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](300)}}
	want := map[string]string{"io.bfq.weight": "300", "io.weight": "2930"}
	if diff := cmp.Diff(want, maps.Collect(g.Files(r))); diff != "" {
		t.Error(diff)
	}
}

// systemd is told before the files are written, writes its rounded values into them, and is told again if
// that comes to nothing.
func TestUpdateTelling(t *testing.T) {
	cpu := func(p specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &p} }
	const present = "cpu.max=12300 100000 cpu.weight=27"
	absent := cpu(specs.LinuxCPU{Quota: ptr[int64](45670)})
	absent.Unified = map[string]string{"teu.max": "1"}
	for _, tt := range []struct {
		r                  *specs.LinuxResources
		heard, then, error string
	}{
		{cpu(specs.LinuxCPU{Quota: ptr[int64](45670)}), "cpu.max=45670", "cpu.max=45670 100000 cpu.weight=27", ""},
		{cpu(specs.LinuxCPU{Period: ptr[uint64](200000)}), "cpu.max=12300 200000", "cpu.max=12300 200000 cpu.weight=27", ""},
		{cpu(specs.LinuxCPU{Shares: ptr[uint64](512)}), "cpu.weight=59", "cpu.max=12300 100000 cpu.weight=59", ""},
		{absent, "cpu.max=45670 teu.max=1 undone", present, "no such file"},
		{&specs.LinuxResources{CPU: absent.CPU, Memory: &specs.LinuxMemory{Limit: ptr[int64](5), Swap: ptr[int64](4)}}, "", present, "less than"},
	} {
		dir := t.TempDir()
		g := (&Host{mode: V2, hierarchies: []Hierarchy{{Mountpoint: dir}}}).Open("/")
		write := func(file, value string) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("cpu.max", "12300 100000")
		write("cpu.weight", "27")
		var heard []string
		_, err := g.UpdateTelling(tt.r, func(files iter.Seq2[string, string]) (func() error, error) {
			for file, value := range files {
				heard = append(heard, file+"="+value)
			}
			write("cpu.max", "46000 100000")
			return func() error {
				heard = append(heard, "undone")
				write("cpu.max", "13000 100000")
				return nil
			}, nil
		})
		quota, _ := readFile(dir, "cpu.max")
		weight, _ := readFile(dir, "cpu.weight")
		if got := "cpu.max=" + quota + " cpu.weight=" + weight; strings.Join(heard, " ") != tt.heard || got != tt.then {
			t.Errorf("told %q, then %s; want %q, %s", heard, got, tt.heard, tt.then)
		}
		if (err == nil) != (tt.error == "") || err != nil && !strings.Contains(err.Error(), tt.error) {
			t.Errorf("%q: %v", tt.error, err)
		}
	}
}

// There is no limit of both without one of memory, of which v1 may have had one before.
func TestSwapWithoutMemory(t *testing.T) {
	for _, limit := range []*int64{nil, ptr[int64](0), ptr[int64](-1)} {
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: limit, Swap: ptr[int64](1 << 20)}}
		if err := (&Host{mode: V2}).Open("x").check(r); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("version 2: %v", err)
		}
		if err := (&Host{mode: V1}).Open("x").check(r); (err == nil) != (limit == nil || *limit == 0) {
			t.Errorf("version 1: %v", err)
		}
	}
}

// Kernels of before 5.11 refuse a program when those of other containers have used up what may be locked.
func TestLockingMore(t *testing.T) {
	limit := func() (l unix.Rlimit) {
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := limit()
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 65536, Max: before.Max}) != nil {
		t.Fatal("the limit cannot be lowered")
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before)
	lowered := limit()
	var seen []uint64
	_, err := lockingMore(func() (int, error) {
		if seen = append(seen, limit().Cur); len(seen) == 1 {
			return -1, unix.EPERM
		}
		return 0, nil
	})
	if err != nil || len(seen) != 2 || seen[1] <= seen[0] || limit() != lowered {
		t.Errorf("limits of %d, then %+v: %v", seen, limit(), err)
	}
}
