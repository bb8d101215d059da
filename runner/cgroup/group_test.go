package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// newGroup makes a group of this test's own on this host.
func newGroup(t *testing.T, h *Host, r *specs.LinuxResources) *Group {
	t.Helper()
	privilege.NeedRoot(t)
	path := fmt.Sprintf("teu-test-%d/%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	g, _, err := h.Create(path, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx), h.Open(filepath.Dir(path)).Remove(ctx)); err != nil {
			t.Error(err)
		}
	})
	return g
}

// inGroup starts a shell that joins the group first.
func inGroup(g *Group, script string) *exec.Cmd {
	join := ""
	for _, p := range g.Procs() {
		join += "echo 0 > '" + p + "' || exit 99; "
	}
	return exec.Command("/bin/sh", "-c", join+script)
}

func detect(t *testing.T) *Host {
	t.Helper()
	privilege.NeedRoot(t)
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if h.Mode() == None {
		t.Fatal("this host has no control groups")
	}
	return h
}

func TestGroup(t *testing.T) {
	h := detect(t)
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](32 << 20)},
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](50000), Period: ptr[uint64](100000), Shares: ptr[uint64](512), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](20)},
	}
	g := newGroup(t, h, r)
	s, err := g.Stats()
	if err != nil || s.MemoryLimit != 32<<20 || s.PidsLimit != 20 || s.Pids != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if out, err := inGroup(g, "grep Cpus_allowed_list /proc/self/status; for i in 1 2 3 4 5 6; do :; done").Output(); err != nil || string(out) != "Cpus_allowed_list:\t0\n" {
		t.Errorf("%q, %v", out, err)
	}
	// A shell that remembers 100 MB.
	if err := inGroup(g, "x=$(head -c 100000000 /dev/zero | tr '\\000' x); sleep 1").Run(); err == nil {
		t.Error("100 MB fit into 32")
	}
	if err := inGroup(g, "for i in $(seq 40); do sleep 5 & done; wait").Run(); err == nil {
		t.Error("40 processes fit into 20")
	}
	s, err = g.Stats()
	if err != nil || s.OOMKills == 0 || s.CPU == 0 || s.MemoryPeak == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	usage, err := g.Usage()
	want := Stats{
		MemoryUsage: usage.MemoryUsage, MemoryLimit: s.MemoryLimit, MemoryCache: usage.MemoryCache, Memory: usage.Memory,
		CPU: usage.CPU, Pids: usage.Pids, ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes, IOBytes: s.IOBytes,
	}
	if err != nil || !reflect.DeepEqual(usage, want) || usage.CPU < s.CPU || len(usage.Memory) != 1 || usage.Memory[g.cacheKey()] != usage.MemoryCache {
		t.Errorf("a list shows %+v of %+v, %v", usage, s, err)
	}
	if s.Periods == 0 || h.Mode() == V1 && (len(s.PerCPU) == 0 || s.PerCPU[0] == 0) {
		t.Errorf("%d periods, %d on each processor", s.Periods, s.PerCPU)
	}
	// Limits can be changed in both directions.
	for _, limit := range []int64{64 << 20, 16 << 20, 128 << 20} {
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: ptr(2 * limit)}}
		if _, err := g.Update(r); err != nil {
			t.Error(err)
		}
		if s, err := g.Stats(); err != nil || s.MemoryLimit != uint64(limit) {
			t.Errorf("limit %d: %+v, %v", limit, s, err)
		}
	}
}

func TestMemoryFailures(t *testing.T) {
	h := detect(t)
	g := newGroup(t, h, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](8 << 20)}})
	_ = inGroup(g, "x=$(head -c 20000000 /dev/zero | tr '\\000' x)").Run()
	if s, err := g.Stats(); err != nil || h.Mode() == V1 && s.MemoryFailures == 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestIOByDevice(t *testing.T) {
	v1 := "254:0 Read 4096\n254:0 Write 20\n254:0 Total 4116\n7:1 Read 1\nTotal 4117\n"
	want := []IOCount{{254, 0, "Read", 4096}, {254, 0, "Write", 20}, {254, 0, "Total", 4116}, {7, 1, "Read", 1}}
	if got := parseIOV1(v1); !reflect.DeepEqual(got, want) {
		t.Errorf("version 1: %v, want %v", got, want)
	}
	v2 := "254:0 rbytes=4096 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 \nno device\n"
	want = []IOCount{{254, 0, "read", 4096}, {254, 0, "write", 20}}
	if got := parseIOV2(v2); !reflect.DeepEqual(got, want) {
		t.Errorf("version 2: %v, want %v", got, want)
	}
	for _, list := range [][]IOCount{parseIOV1(v1), parseIOV2(v2)} {
		s := Stats{IOBytes: list}
		if s.sumIO(); s.ReadBytes/2 != 2048 || s.WriteBytes != 20 {
			t.Errorf("%v: sums %d and %d", list, s.ReadBytes, s.WriteBytes)
		}
	}
}

func TestFreezeKillRemove(t *testing.T) {
	g := newGroup(t, detect(t), nil)
	cmd := inGroup(g, "sleep 1000 & sleep 1000 & wait; sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { pids, err := g.Pids(); return len(pids) == 3, err }); err != nil {
		t.Fatal(err)
	}
	for _, frozen := range []bool{true, false} {
		if err := g.Freeze(ctx, frozen); err != nil {
			t.Error(err)
		}
	}
	short, cancel2 := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel2()
	if err := g.Remove(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("removing a group with processes: %v", err)
	}
	if err := g.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the shell ended well")
	}
	if err := g.Remove(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Remove(ctx); err != nil {
		t.Error("removing twice:", err)
	}
	if _, err := g.Stats(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

// probe opens and makes devices from within a group.
const probe = `: < /dev/null && echo null; (: < /dev/zero) 2>/dev/null && echo zero; d=$(mktemp -d /dev/shm/teu-XXXXXX)
mknod $d/full c 1 7 && echo made; (: > $d/full) 2>/dev/null && echo used; rm -r $d; true`

func testDevices(t *testing.T, h *Host) {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rwm"},
	}
	g := newGroup(t, h, &specs.LinuxResources{Devices: rules})
	if out, err := inGroup(g, probe).CombinedOutput(); err != nil || string(out) != "null\nmade\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := g.Update(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := inGroup(g, probe).CombinedOutput(); err != nil || string(out) != "null\nzero\nmade\nused\n" {
		t.Errorf("with all devices: %q, %v", out, err)
	}
}

func TestDevices(t *testing.T) { testDevices(t, detect(t)) }

// The unified hierarchy restricts devices also where it has no controllers.
func TestDevicesV2(t *testing.T) { testDevices(t, detectV2(t)) }

// A period can be lowered where a group above has a quota: the present quota of the new
// period would be more than that, so the quota comes first.
func TestPeriodBelowAQuota(t *testing.T) {
	h := detect(t)
	number := func(n int64) *int64 { return &n }
	period := uint64(10000)
	parent := newGroup(t, h, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(50000)}})
	child, _, err := h.Create(parent.Path()+"/child", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(40000)}})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Remove(t.Context())
	if _, err := child.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: &period, Quota: number(3000)}}); err != nil {
		t.Error(err)
	}
}

// A limit of a device there is not is no failure of the host's.
func TestLimitOfNoDevice(t *testing.T) {
	h := detect(t)
	g := newGroup(t, h, nil)
	none := specs.LinuxThrottleDevice{Rate: 1000}
	none.Major, none.Minor = 1, 3
	warnings, err := g.Update(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{none}}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no such device") && !strings.Contains(warnings[0], "io.max is missing") {
		t.Errorf("%q, %v", warnings, err)
	}
}

// detectV2 finds the hierarchy of version 2, which some hosts have beside those of version 1.
func detectV2(t *testing.T) *Host {
	t.Helper()
	privilege.NeedRoot(t)
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.subtree_control")); err == nil {
			return &Host{mode: V2, hierarchies: []Hierarchy{{Mountpoint: dir}}}
		}
	}
	t.Fatal("this host has no unified hierarchy")
	return nil
}

// A container's own containers have rules for devices, too, and none allows what one above it does not.
func TestDevicesBelowDevices(t *testing.T) {
	h := detectV2(t)
	allow := func(minors ...int64) *specs.LinuxResources {
		rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Access: "m"}}
		for _, minor := range minors {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr[int64](1), Minor: &minor})
		}
		return &specs.LinuxResources{Devices: rules}
	}
	parent := newGroup(t, h, allow(3, 5))
	for range 3 { // a second program replaces the first
		if _, err := parent.Update(allow(3, 5)); err != nil {
			t.Fatal(err)
		}
	}
	child, _, err := h.Create(parent.Path()+"/child", allow(3, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer child.Remove(t.Context())
	if out, err := inGroup(child, probe).CombinedOutput(); err != nil || string(out) != "null\nmade\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := child.Update(allow(5)); err != nil {
		t.Fatal(err)
	}
	if out, err := inGroup(child, `(: > /dev/null) 2> /dev/full || echo no null; : < /dev/zero && echo zero`).CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "zero\n") {
		t.Errorf("%q, %v", out, err)
	}
}

// Two rules about one device allow together what they allow.
func TestDeviceAccessAddsUp(t *testing.T) {
	for name, h := range map[string]*Host{"host": detect(t), "unified": detectV2(t)} {
		t.Run(name, func(t *testing.T) {
			rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
			for _, access := range []string{"r", "w"} {
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](5), Access: access})
			}
			g := newGroup(t, h, &specs.LinuxResources{Devices: rules})
			if out, err := inGroup(g, ": <> /dev/zero").CombinedOutput(); err != nil {
				t.Errorf("%s, %v", out, err)
			}
		})
	}
}

// runtime-spec, config-linux.md, "Unified": an error and no warning.
func TestUnifiedWithoutController(t *testing.T) {
	g := newGroup(t, detectV2(t), nil)
	if warnings, err := g.Update(&specs.LinuxResources{Unified: map[string]string{"teu.max": "1"}}); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("%q, %v", warnings, err)
	}
}

// The lists of threaded groups cannot be read; their processes are in that of the group above.
func TestThreadedGroups(t *testing.T) {
	g := newGroup(t, detectV2(t), nil)
	below := filepath.Join(g.V2Dir(), "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(below, "cgroup.type", "threaded"); err != nil {
		t.Fatal(err)
	}
	cmd := inGroup(g, "echo 0 > '"+below+"/cgroup.threads' && sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { pids, err := g.Pids(); return len(pids) > 0, err }); err != nil {
		t.Error(err)
	}
	if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// A quota may not be below its burst, whichever of the two is changed first.
func TestQuotaAndBurst(t *testing.T) {
	h := detect(t)
	g := newGroup(t, h, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](50000), Burst: ptr[uint64](40000)}})
	for _, quota := range []int64{20000, 90000} {
		if _, err := g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Burst: ptr(uint64(quota - 1000))}}); err != nil {
			t.Errorf("quota %d: %v", quota, err)
		}
	}
}

// A limit of memory alone is refused where one of memory and swap stands in the way, which is not lifted.
func TestMemoryAboveSwap(t *testing.T) {
	h := detect(t)
	if h.Mode() != V1 {
		t.Skip("version 2 limits swap alone")
	}
	const limit = 32 << 20
	g := newGroup(t, h, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](limit), Swap: ptr[int64](limit)}})
	swap := func() string {
		hi, _ := h.find("memory")
		s, err := readFile(g.dir(hi), "memory.memsw.limit_in_bytes")
		if err != nil {
			t.Error(err)
		}
		return s
	}
	if _, err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](2 * limit)}}); err == nil || swap() != fmt.Sprint(limit) {
		t.Errorf("memory and swap are limited to %s: %v", swap(), err)
	}
	if _, err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}}); err != nil || len(swap()) < 15 {
		t.Errorf("without a limit of memory, memory and swap are limited to %s: %v", swap(), err)
	}
}

// Whoever made a group may have died before it had its memory nodes.
func TestHalfMadeCPUSet(t *testing.T) {
	h := detect(t)
	hi, ok := h.find("cpuset")
	if !ok {
		t.Skip("no cpuset of version 1")
	}
	dir := filepath.Join(hi.Mountpoint, fmt.Sprintf("teu-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(dir, "cpuset.cpus", "0"); err != nil {
		t.Fatal(err)
	}
	if out, err := inGroup(newGroup(t, h, nil), "true").CombinedOutput(); err != nil {
		t.Errorf("%s, %v", out, err)
	}
}

// The kernel stops making room for a lower limit when a signal comes, such as those of the Go runtime.
func TestLimitDespiteSignals(t *testing.T) {
	g := newGroup(t, detect(t), nil)
	file := filepath.Join(t.TempDir(), "cache")
	if out, err := inGroup(g, "head -c 150000000 /dev/zero > '"+file+"'; sync '"+file+"'").CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done, ended := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Microsecond):
				unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
			}
		}
	}()
	_, err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](8 << 20)}})
	close(done)
	<-ended
	if err != nil {
		t.Error(err)
	}
}

// The last rule about a device counts, or the rules are refused: version 1 passes over a part of what
// another rule says otherwise of.
func TestDeniedDevices(t *testing.T) {
	h := detect(t)
	kind := func(allow bool, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: &major, Minor: &minor, Access: access}
	}
	none, every := specs.LinuxDeviceCgroup{Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	null := kind(true, 1, 3, "rwm")
	for name, tt := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		"many after one":     {[]specs.LinuxDeviceCgroup{none, null, kind(true, 1, 5, "rw"), kind(false, -1, 5, "rwm"), kind(true, -1, -1, "m")}, "null\nmade\n"},
		"one access":         {[]specs.LinuxDeviceCgroup{none, null, kind(true, 1, 5, "rw"), kind(false, 1, 5, "r"), kind(true, -1, -1, "m")}, "null\nmade\n"},
		"a part of all":      {[]specs.LinuxDeviceCgroup{every, kind(false, 1, 7, "rw")}, "null\nzero\nmade\n"},
		"all but, and again": {[]specs.LinuxDeviceCgroup{every, kind(false, 1, 7, "rwm"), kind(true, -1, -1, "m")}, "null\nzero\nmade\n"},
		"one of many":        {[]specs.LinuxDeviceCgroup{none, kind(true, 1, -1, "rwm"), kind(false, 1, 5, "r")}, "null\nmade\nused\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, h, nil)
			if _, err := g.Update(&specs.LinuxResources{Devices: tt.rules}); h.Mode() == V1 && name == "one of many" {
				if !errors.Is(err, errdefs.ErrNotImplemented) {
					t.Error(err)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if out, err := inGroup(g, probe).CombinedOutput(); err != nil || string(out) != tt.want {
				t.Errorf("%q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

// What was changed before a value was refused is as it was.
func TestFailedUpdateChangesNothing(t *testing.T) {
	h := detect(t)
	g := newGroup(t, h, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](32 << 20)},
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](50000), Period: ptr[uint64](100000), Shares: ptr[uint64](512)}, Pids: &specs.LinuxPids{Limit: ptr[int64](20)},
	})
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](5000), Period: ptr[uint64](10000), Shares: ptr[uint64](256), Cpus: "none"}, Pids: &specs.LinuxPids{Limit: ptr[int64](30)},
	}
	before := g.present(g.settings(r))
	if _, err := g.Update(r); err == nil || len(before) == 0 {
		t.Errorf("%v, %v", before, err)
	}
	if now := g.present(g.settings(r)); !reflect.DeepEqual(now, before) {
		t.Errorf("%v, want %v", now, before)
	}
}
