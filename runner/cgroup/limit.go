package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/userns"
)

// setting is one value for one file.
type setting struct {
	controller string // v1: where the file is
	file       string
	value      string
	limit      string // what it is, for a warning if the host does not have it
	// instead is a file that takes insteadValue where file is missing, or "".
	instead, insteadValue string
	demanded              bool // a missing file is an error
}

// Update applies r to the existing group, as Create does. With an error limits are as they were, but for those
// of single devices.
func (g *Group) Update(r *specs.LinuxResources) (warnings []string, err error) {
	return g.UpdateTelling(r, nil)
}

// UpdateTelling is Update of a group whose limits systemd keeps, too, and writes as it knows them, rounded. It
// is told first of the files that will change, so that the exact values are the last; undo has it know again
// what it knew.
func (g *Group) UpdateTelling(r *specs.LinuxResources, tell func(files iter.Seq2[string, string]) (undo func() error, err error)) (warnings []string, err error) {
	switch {
	case r == nil:
		return nil, nil
	case g.host.mode == None:
		return g.host.unlimited(r), nil
	}
	if err := g.check(r); err != nil {
		return nil, err
	}
	list, undo := g.settings(r), func() error { return nil }
	before := g.present(list)
	if tell != nil {
		changes := list
		if quota := (setting{file: "cpu.max", limit: "processor time"}); !slices.ContainsFunc(list, func(s setting) bool { return s.file == quota.file }) {
			// Whichever limit it is told of, systemd writes all, and this is the one that it rounds.
			now := g.present([]setting{quota})
			list, before = slices.Concat(now, list), slices.Concat(now, before)
		}
		if undo, err = tell(files(changes)); err != nil {
			return nil, err
		}
	}
	warnings, err = g.update(list, r.Devices)
	if err != nil {
		err = errors.Join(err, undo())
		_, failed := g.applyInTurn(before)
		err = errors.Join(err, failed)
	}
	return warnings, err
}

// present is list with the values that the files have now, without those of many values.
func (g *Group) present(list []setting) (now []setting) {
	for _, s := range list {
		for _, file := range []string{s.file, s.instead} {
			dir, err := g.dirOf(s)
			if err != nil || file == "" {
				continue
			}
			value, err := readFile(dir, file)
			if err != nil {
				continue
			}
			if !strings.ContainsAny(value, " \n") || file == "cpu.max" {
				now = append(now, setting{controller: s.controller, file: file, value: cmp.Or(value, "\n"), limit: s.limit}) // an empty write is none
			}
			break
		}
	}
	return now
}

// update applies what was checked; an error leaves what was done.
func (g *Group) update(list []setting, devices []specs.LinuxDeviceCgroup) (warnings []string, err error) {
	if warnings, err = g.applyInTurn(list); err != nil {
		return warnings, err
	}
	// Root of a user namespace may not load the filter, and needs none: it can neither make
	// nodes nor open those of a filesystem that it has mounted (mount_namespaces(7)).
	if err := g.devices(devices); err != nil && !(errors.Is(err, unix.EPERM) && userns.Inside()) {
		return warnings, fmt.Errorf("restricting devices: %w", err)
	}
	return warnings, nil
}

// applyInTurn applies list in an order that the kernel takes.
func (g *Group) applyInTurn(list []setting) (warnings []string, err error) {
	// One value may stand in the way of another: the present quota of the new period may be more than a
	// group above allows, memory may never be above memory and swap, nor a quota below its burst. So
	// what is refused is tried again when the others are set.
	for left := list; len(left) > 0; {
		refused, more, err := g.applyAll(left)
		warnings = append(warnings, more...)
		if err != nil && (!errors.Is(err, unix.EINVAL) || len(refused) == len(left)) {
			return warnings, err
		}
		left = refused
	}
	return warnings, nil
}

// applyAll applies what it can of list. An invalid value keeps nothing back: those are refused, the first
// with err.
func (g *Group) applyAll(list []setting) (refused []setting, warnings []string, err error) {
	for _, s := range list {
		failed := g.apply(s)
		switch {
		case failed == nil:
		case errors.Is(failed, unix.ENODEV):
			warnings = append(warnings, "there is no such device: the limit of "+s.limit+" to "+s.value+" has no effect")
		case absent(failed) && s.demanded:
			return nil, warnings, fmt.Errorf("unified resource %s: this host has no such file: %w", s.file, errdefs.ErrNotImplemented)
		case absent(failed) && (s.value == "-1" || s.value == "max"): // no limit is what there is
		case absent(failed):
			warnings = append(warnings, "this host cannot limit "+s.limit+" ("+s.file+" is missing): the limit has no effect")
		case errors.Is(failed, unix.EINVAL):
			refused = append(refused, s)
			if err == nil {
				err = fmt.Errorf("limiting %s: %w", s.limit, failed)
			}
		default:
			return nil, warnings, fmt.Errorf("limiting %s: %w", s.limit, failed)
		}
	}
	return refused, warnings, err
}

func (g *Group) settings(r *specs.LinuxResources) []setting {
	if g.host.mode == V1 {
		return append(settingsV1(r), g.host.furtherSettings(r)...)
	}
	return slices.Concat(settingsV2(g.withQuota(r)), g.host.furtherSettings(r), unified(r))
}

// withQuota is r with the present quota if it has a new period only: they are in one file.
func (g *Group) withQuota(r *specs.LinuxResources) *specs.LinuxResources {
	p := r.CPU
	if p == nil || p.Period == nil || *p.Period == 0 || p.Quota != nil && *p.Quota != 0 {
		return r
	}
	now, _ := readFile(g.dir(g.host.hierarchies[0]), "cpu.max")
	now, _, _ = strings.Cut(now, " ")
	quota, err := strconv.ParseInt(now, 10, 64)
	if err != nil { // there is none
		return r
	}
	all, cpu := *r, *p
	all.CPU, cpu.Quota = &cpu, &quota
	return &all
}

// Files are the names and values of what Update writes into the group, and of what it may
// write instead.
func (g *Group) Files(r *specs.LinuxResources) iter.Seq2[string, string] {
	if r == nil {
		return files(nil)
	}
	return files(g.settings(r))
}

func files(list []setting) iter.Seq2[string, string] {
	return func(yield func(file, value string) bool) {
		for _, s := range list {
			if !yield(s.file, s.value) || s.instead != "" && !yield(s.instead, s.insteadValue) {
				return
			}
		}
	}
}

// unset is docker's swappiness of -1: that of the group above.
const unset = math.MaxUint64

// check refuses what the kernel's own message would not explain.
func (g *Group) check(r *specs.LinuxResources) error {
	if m := r.Memory; m != nil {
		if m.Limit != nil && m.Swap != nil && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
			return fmt.Errorf("limit of memory and swap is less than that of memory: %w", errdefs.ErrInvalidArgument)
		}
		// v2 has a limit of swap alone.
		if m.Swap != nil && *m.Swap > 0 && (m.Limit != nil && *m.Limit < 0 || g.host.mode == V2 && (m.Limit == nil || *m.Limit == 0)) {
			return fmt.Errorf("limit of memory and swap without one of memory: %w", errdefs.ErrInvalidArgument)
		}
		if s := m.Swappiness; s != nil && *s > 100 && *s != unset {
			return fmt.Errorf("swappiness %d is more than 100: %w", *s, errdefs.ErrInvalidArgument)
		}
		if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && m.Limit != nil && *m.Limit > 0 {
			if now, err := g.Stats(); err == nil && now.MemoryUsage > uint64(*m.Limit) {
				return fmt.Errorf("%d bytes of memory are in use, more than the limit of %d: %w", now.MemoryUsage, *m.Limit, errdefs.ErrFailedPrecondition)
			}
		}
	}
	for file := range r.Unified {
		if g.host.mode != V2 {
			return fmt.Errorf("unified resource %s on a host with cgroup v1: %w", file, errdefs.ErrNotImplemented)
		}
		if filepath.Base(file) != file || strings.HasPrefix(file, "cgroup.") {
			return fmt.Errorf("unified resource %q: %w", file, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// dirOf is the directory that a setting's file is in.
func (g *Group) dirOf(s setting) (string, error) {
	if g.host.mode == V2 {
		return g.dir(g.host.hierarchies[0]), nil
	}
	hi, ok := g.host.find(s.controller)
	if !ok {
		return "", &os.PathError{Op: "open", Path: s.file, Err: unix.ENOENT}
	}
	return g.dir(hi), nil
}

func (g *Group) apply(s setting) error {
	dir, err := g.dirOf(s)
	if err != nil {
		return err
	}
	err = writeFile(dir, s.file, s.value)
	if s.instead != "" && absent(err) {
		err = writeFile(dir, s.instead, s.insteadValue)
	}
	return err
}

// collector builds a list of settings.
type collector []setting

func (c *collector) add(controller, file, limit string, value any) {
	*c = append(*c, setting{controller: controller, file: file, value: fmt.Sprint(value), limit: limit})
}

func settingsV1(r *specs.LinuxResources) []setting {
	var c collector
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit != 0 {
			c.add("memory", "memory.limit_in_bytes", "memory", *m.Limit)
		}
		switch {
		case m.Swap != nil && *m.Swap != 0:
			c.add("memory", "memory.memsw.limit_in_bytes", "swap", *m.Swap)
		case m.Limit != nil && *m.Limit < 0: // as for v2
			c.add("memory", "memory.memsw.limit_in_bytes", "swap", -1)
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			c.add("memory", "memory.soft_limit_in_bytes", "reserved memory", *m.Reservation)
		}
		if m.Swappiness != nil && *m.Swappiness != unset {
			c.add("memory", "memory.swappiness", "swappiness", *m.Swappiness)
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			c.add("memory", "memory.oom_control", "the OOM killer", 1)
		}
	}
	if p := r.CPU; p != nil {
		if p.Shares != nil && *p.Shares != 0 {
			c.add("cpu", "cpu.shares", "shares of processors", *p.Shares)
		}
		if p.Period != nil && *p.Period != 0 {
			c.add("cpu", "cpu.cfs_period_us", "processor time", *p.Period)
		}
		if p.Quota != nil && *p.Quota != 0 {
			c.add("cpu", "cpu.cfs_quota_us", "processor time", *p.Quota)
		}
		if p.Burst != nil {
			c.add("cpu", "cpu.cfs_burst_us", "bursts of processor time", *p.Burst)
		}
		if p.Idle != nil {
			c.add("cpu", "cpu.idle", "idle scheduling", *p.Idle)
		}
		if p.Cpus != "" {
			c.add("cpuset", "cpuset.cpus", "the set of processors", p.Cpus)
		}
		if p.Mems != "" {
			c.add("cpuset", "cpuset.mems", "the set of memory nodes", p.Mems)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		c.add("pids", "pids.max", "processes", processes(*r.Pids.Limit))
	}
	if b := r.BlockIO; b != nil {
		for file, list := range map[string][]specs.LinuxThrottleDevice{
			"blkio.throttle.read_bps_device": b.ThrottleReadBpsDevice, "blkio.throttle.write_bps_device": b.ThrottleWriteBpsDevice,
			"blkio.throttle.read_iops_device": b.ThrottleReadIOPSDevice, "blkio.throttle.write_iops_device": b.ThrottleWriteIOPSDevice,
		} {
			for _, d := range list {
				c.add("blkio", file, "throughput of block devices", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
			}
		}
	}
	return c
}

func settingsV2(r *specs.LinuxResources) []setting {
	var c collector
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit != 0 {
			c.add("", "memory.max", "memory", maximum(*m.Limit))
		}
		if swap, ok := swapV2(m); ok {
			c.add("", "memory.swap.max", "swap", swap)
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			c.add("", "memory.low", "reserved memory", maximum(*m.Reservation))
		}
	}
	if p := r.CPU; p != nil {
		if p.Shares != nil && *p.Shares != 0 {
			c.add("", "cpu.weight", "shares of processors", weight(*p.Shares))
		}
		if quota, ok := quotaV2(p); ok {
			c.add("", "cpu.max", "processor time", quota)
		}
		if p.Burst != nil {
			c.add("", "cpu.max.burst", "bursts of processor time", *p.Burst)
		}
		if p.Idle != nil {
			c.add("", "cpu.idle", "idle scheduling", *p.Idle)
		}
		if p.Cpus != "" {
			c.add("", "cpuset.cpus", "the set of processors", p.Cpus)
		}
		if p.Mems != "" {
			c.add("", "cpuset.mems", "the set of memory nodes", p.Mems)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		c.add("", "pids.max", "processes", processes(*r.Pids.Limit))
	}
	if b := r.BlockIO; b != nil {
		for key, list := range map[string][]specs.LinuxThrottleDevice{
			"rbps": b.ThrottleReadBpsDevice, "wbps": b.ThrottleWriteBpsDevice,
			"riops": b.ThrottleReadIOPSDevice, "wiops": b.ThrottleWriteIOPSDevice,
		} {
			for _, d := range list {
				c.add("", "io.max", "throughput of block devices", fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, key, d.Rate))
			}
		}
	}
	return c
}

// unified are the values that are given by their files. They are written last; runtime-spec 1.3,
// config-linux.md, "Unified".
func unified(r *specs.LinuxResources) (list []setting) {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		list = append(list, setting{file: file, value: r.Unified[file], limit: file, demanded: true})
	}
	return list
}

// maximum is how the kernel writes a limit; negative is none.
func maximum(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// processes is the limit of a group that holds the container's first process: none at all
// would only make its failures obscure, so runc too takes 0 for 1.
func processes(n int64) string {
	if n == 0 {
		n = 1
	}
	return maximum(n)
}

// swapV2 is the limit of swap alone, which v2 wants, from that of memory and swap.
func swapV2(m *specs.LinuxMemory) (string, bool) {
	switch {
	case m.Swap == nil || *m.Swap == 0:
		return "max", m.Limit != nil && *m.Limit < 0
	case *m.Swap < 0:
		return "max", true
	}
	return maximum(*m.Swap - *m.Limit), true // see check
}

func quotaV2(p *specs.LinuxCPU) (string, bool) {
	hasQuota, hasPeriod := p.Quota != nil && *p.Quota != 0, p.Period != nil && *p.Period != 0
	if !hasQuota && !hasPeriod {
		return "", false
	}
	quota := "max"
	if hasQuota && *p.Quota > 0 {
		quota = strconv.FormatInt(*p.Quota, 10)
	}
	if !hasPeriod {
		return quota, true
	}
	return quota + " " + strconv.FormatUint(*p.Period, 10), true
}

// weight converts shares (2..262144, default 1024) to a weight (1..10000, default 100) by
// the function that meets all three; opencontainers/cgroups v0.1.0, utils.go.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}
