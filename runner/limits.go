package runner

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// minMemory is docker's least limit, in bytes.
const minMemory = 6 << 20

// refused is what cannot be, in docker's words (limits: moby daemon/daemon_unix.go, verifyPlatformContainerResources).
func refused(format string, args ...any) error {
	return worded(errdefs.ErrInvalidArgument, format, args...)
}

// limitSwap gives a limit of memory one of memory and swap, docker's.
func (o *Options) limitSwap() {
	if r := o.Resources; r != nil && r.Memory != nil && value(r.Memory.Limit) > 0 && value(r.Memory.Swap) == 0 {
		r.Memory.Swap = twice(r.Memory.Limit)
	}
}

func twice(n *int64) *int64 {
	m := 2 * *n
	return &m
}

// checkLimits refuses what the kernel would, or what would limit nothing.
func (o *Options) checkLimits() error {
	if a := o.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return refused("Invalid value %d, range for oom score adj is [-1000, 1000]", *a)
	}
	if o.ShmSize < 0 {
		return refused("SHM size can not be less than 0")
	}
	if o.Resources == nil {
		return nil
	}
	if m := o.Resources.Memory; m != nil && value(m.Limit) == 0 && value(m.Swap) > 0 {
		return refused("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	return checkResources(o.Resources)
}

// checkResources looks at limits that are new, of a container that is made or has some already.
func checkResources(r *specs.LinuxResources) error {
	if b := r.BlockIO; b != nil && b.Weight != nil && (*b.Weight < 10 || *b.Weight > 1000) {
		return refused("Range of blkio weight is from 10 to 1000")
	}
	if err := checkMemory(r.Memory); err != nil {
		return err
	}
	return checkCPU(r.CPU)
}

func checkMemory(m *specs.LinuxMemory) error {
	if m == nil {
		return nil
	}
	limit, swap, reservation := value(m.Limit), value(m.Swap), value(m.Reservation)
	switch {
	case limit != 0 && limit < minMemory:
		return refused("Minimum memory limit allowed is 6MB")
	case limit > 0 && swap > 0 && swap < limit:
		return refused("Minimum memoryswap limit should be larger than memory limit, see usage")
	case m.Swappiness != nil && *m.Swappiness > 100:
		return refused("Invalid value: %d, valid memory swappiness range is 0-100", *m.Swappiness)
	case reservation > 0 && reservation < minMemory:
		return refused("Minimum memory reservation allowed is 6MB")
	case limit > 0 && limit < reservation:
		return refused("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	return nil
}

func checkCPU(cpu *specs.LinuxCPU) error {
	if cpu == nil {
		return nil
	}
	if p := cpu.Period; p != nil && *p != 0 && (*p < 1000 || *p > 1000000) {
		return refused("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	}
	if q := value(cpu.Quota); q > 0 && q < 1000 {
		return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	if err := checkSet(cpu.Cpus, "cpus", "CPUs", "/sys/devices/system/cpu/online"); err != nil {
		return err
	}
	return checkSet(cpu.Mems, "mems", "memory nodes", "/sys/devices/system/node/online")
}

// checkSet looks whether the processors or memory nodes of a list are there; a host that
// does not tell which are is not asked further.
func checkSet(list, name, what, online string) error {
	wanted, ok := ranges(list)
	if !ok {
		return refused("Invalid value %s for cpuset %s: invalid format: %s", list, name, list)
	}
	if len(wanted) == 0 {
		return nil
	}
	b, err := os.ReadFile(online)
	have, ok := ranges(strings.TrimSpace(string(b)))
	if err != nil || !ok {
		return nil
	}
	for _, w := range wanted {
		there := false
		for _, h := range have {
			there = there || h[0] <= w[0] && w[1] <= h[1]
		}
		if !there {
			return refused("Requested %s are not available - requested %s, available: %s", what, list, strings.TrimSpace(string(b)))
		}
	}
	return nil
}

// ranges reads a list such as 0-2,4 (cpuset(7), "List format"); nothing is an empty one.
func ranges(text string) (list [][2]uint16, ok bool) {
	if text == "" {
		return nil, true
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ok := ParseRange(part)
		if !ok {
			return nil, false
		}
		list = append(list, [2]uint16{first, last})
	}
	return list, true
}

// ParseRange reads a number below 65536, or two with a hyphen between them, the smaller first.
func ParseRange(text string) (first, last uint16, ok bool) {
	a, b, ranged := strings.Cut(text, "-")
	if !ranged {
		b = a
	}
	n, e1 := strconv.ParseUint(a, 10, 16)
	m, e2 := strconv.ParseUint(b, 10, 16)
	return uint16(n), uint16(m), e1 == nil && e2 == nil && n <= m
}

// Warnings are docker's about what was asked for and will not be, or should not.
func (o *Options) Warnings() (list []string) {
	if r := o.Resources; r != nil && r.Memory != nil && r.Memory.DisableOOMKiller != nil && *r.Memory.DisableOOMKiller && value(r.Memory.Limit) == 0 {
		list = append(list, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if o.Network == "host" && len(o.Ports) > 0 {
		list = append(list, "Published ports are discarded when using host network mode")
	}
	if len(o.Links) > 0 && o.networkMode() == "bridge" {
		list = append(list, "Links on the default bridge network are deprecated and will be removed in a future release. Use a custom network instead.")
	}
	return list
}

// SaysProcessors says whether the CPU limit was asked for as a number of processors, docker's NanoCPUs, and not as a quota.
func (o *Options) SaysProcessors() bool {
	_, quota := cpuQuota(o.Resources)
	return quota && !o.QuotaSaid && o.Resources.CPU.Period != nil && *o.Resources.CPU.Period == processorPeriod
}

// cpuQuota says whether there is a limit of each kind.
func cpuQuota(r *specs.LinuxResources) (period, quota bool) {
	if r == nil || r.CPU == nil {
		return false, false
	}
	return r.CPU.Period != nil && *r.CPU.Period > 0, value(r.CPU.Quota) > 0
}

// processorPeriod is the period of a limit in processors, in microseconds.
const processorPeriod = 100000

// CPU limits processors in docker's numbers; 0 is no limit.
type CPU struct {
	Shares        int64 // weight
	Period, Quota int64 // microseconds
	Nano          int64 // billionths of a processor
	// RealtimePeriod and RealtimeRuntime are microseconds for processes of the real-time classes.
	RealtimePeriod, RealtimeRuntime int64
}

// Set writes the limits into cpu.
func (c CPU) Set(cpu *specs.LinuxCPU) error {
	n := runtime.NumCPU()
	switch {
	case c.Shares < 0:
		return refused("invalid CPU shares (%d): value must be a positive integer", c.Shares)
	case c.Nano > 0 && c.Period > 0:
		return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case c.Nano > 0 && c.Quota > 0:
		return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case c.Nano < 0 || c.Nano > int64(n)*1e9:
		return refused("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", n, n)
	case c.Nano > 0:
		c.Period, c.Quota = processorPeriod, c.Nano/1e4
	}
	if c.Shares > 0 {
		shares := uint64(c.Shares)
		cpu.Shares = &shares
	}
	if c.Period != 0 {
		period := uint64(c.Period)
		cpu.Period = &period
	}
	if c.Quota != 0 {
		cpu.Quota = &c.Quota
	}
	if c.RealtimePeriod > 0 {
		period := uint64(c.RealtimePeriod)
		cpu.RealtimePeriod = &period
	}
	if c.RealtimeRuntime > 0 {
		cpu.RealtimeRuntime = &c.RealtimeRuntime
	}
	return nil
}

func value(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}
