package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/cgroup"
)

// ociLimits are the flags of update, which are runc's.
type ociLimits struct {
	memory, reservation, swap, kernel, kernelTCP string
	period, quota, burst, rtPeriod, rtRuntime    string
	shares, idle, weight, pids                   string
	cpus, mems                                   string
	l3Cache, memBandwidth                        string
}

func (l *ociLimits) flags(f *pflag.FlagSet) {
	for _, flag := range []struct {
		to          *string
		name, usage string
	}{
		{&l.weight, "blkio-weight", "share of block devices, 10 to 1000"},
		{&l.period, "cpu-period", "microseconds in which cpu-quota holds"},
		{&l.quota, "cpu-quota", "microseconds of processor time in a period, -1 for no limit"},
		{&l.burst, "cpu-burst", "microseconds by which the quota may be exceeded"},
		{&l.rtPeriod, "cpu-rt-period", "microseconds in which cpu-rt-runtime holds"},
		{&l.rtRuntime, "cpu-rt-runtime", "microseconds of real-time processor time in a period"},
		{&l.shares, "cpu-share", "share of the processors"},
		{&l.idle, "cpu-idle", "1: run only when nobody else does"},
		{&l.cpus, "cpuset-cpus", "processors to use (0-3,7)"},
		{&l.mems, "cpuset-mems", "memory nodes to use"},
		{&l.kernel, "kernel-memory", "obsolete, has no effect"},
		{&l.kernelTCP, "kernel-memory-tcp", "obsolete, has no effect"},
		{&l.memory, "memory", "bytes of memory, with k, m or g; -1 for no limit"},
		{&l.reservation, "memory-reservation", "bytes of memory to be left when it is scarce"},
		{&l.swap, "memory-swap", "bytes of memory and swap, -1 for no limit"},
		{&l.pids, "pids-limit", "number of processes, -1 for no limit"},
		{&l.l3Cache, "l3-cache-schema", "not supported"},
		{&l.memBandwidth, "mem-bw-schema", "not supported"},
	} {
		f.StringVar(flag.to, flag.name, "", flag.usage)
	}
}

// resources are what the flags ask for; what was not given is nil.
func (l *ociLimits) resources() (*specs.LinuxResources, error) {
	if l.l3Cache != "" || l.memBandwidth != "" {
		return nil, fmt.Errorf("limits of caches and memory bandwidth (intelRdt): %w", errdefs.ErrNotImplemented)
	}
	n := numbers{}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: n.bytes(l.memory), Reservation: n.bytes(l.reservation), Swap: n.bytes(l.swap)},
		CPU: &specs.LinuxCPU{Period: n.unsigned(l.period), Quota: n.signed(l.quota), Burst: n.unsigned(l.burst),
			RealtimePeriod: n.unsigned(l.rtPeriod), RealtimeRuntime: n.signed(l.rtRuntime), Shares: n.unsigned(l.shares),
			Idle: n.signed(l.idle), Cpus: l.cpus, Mems: l.mems},
	}
	if p := n.signed(l.pids); p != nil {
		r.Pids = &specs.LinuxPids{Limit: p}
	}
	if w := n.unsigned(l.weight); w != nil {
		weight := uint16(min(*w, 1<<16-1))
		r.BlockIO = &specs.LinuxBlockIO{Weight: &weight}
	}
	return r, n.err
}

// numbers reads the values of flags; "" is nil. The first failure is kept.
type numbers struct{ err error }

func (n *numbers) failed(text string, err error) {
	if err != nil && n.err == nil {
		n.err = fmt.Errorf("value %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
	}
}

func (n *numbers) signed(text string) *int64 {
	if text == "" {
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	n.failed(text, err)
	return &v
}

func (n *numbers) unsigned(text string) *uint64 {
	if text == "" {
		return nil
	}
	v, err := strconv.ParseUint(text, 10, 64)
	n.failed(text, err)
	return &v
}

func (n *numbers) bytes(text string) *int64 {
	if text == "" {
		return nil
	}
	if text == "-1" {
		v := int64(-1)
		return &v
	}
	v, err := units.RAMInBytes(text)
	n.failed(text, err)
	return &v
}

func (o *ociCommand) update() *cobra.Command {
	var file string
	var l ociLimits
	cmd := o.simple("update", "Change the limits of a container", func(ctx context.Context, c *bundle.Container) error {
		r, err := l.resources()
		if file != "" {
			r = new(specs.LinuxResources)
			err = readJSON(file, r)
		}
		if err != nil {
			return err
		}
		warnings, err := c.Update(ctx, r)
		o.warn(warnings)
		return err
	})
	cmd.Flags().StringVarP(&file, "resources", "r", "", "file of the limits in JSON, - for standard input; other flags do not count then")
	l.flags(cmd.Flags())
	return cmd
}

func (o *ociCommand) events() *cobra.Command {
	var stats bool
	var interval time.Duration
	cmd := o.simple("events", "Print the counters of a container", func(ctx context.Context, c *bundle.Container) error {
		if interval <= 0 {
			return fmt.Errorf("duration interval must be greater than 0: %w", errdefs.ErrInvalidArgument)
		}
		if status, err := c.Status(); err != nil {
			return err
		} else if status == specs.StateStopped {
			return fmt.Errorf("container with id %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
		}
		return o.watch(ctx, c, stats, interval)
	})
	cmd.Flags().BoolVar(&stats, "stats", false, "print once")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two lines")
	return cmd
}

// ociEvent is a line of events, in runc's order.
type ociEvent struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// watch prints counters, and OOM kills as they are seen, until the container has ended.
func (o *ociCommand) watch(ctx context.Context, c *bundle.Container, once bool, interval time.Duration) error {
	print := func(event ociEvent) error {
		b, err := json.Marshal(event)
		if err == nil {
			o.a.ui.Printf("%s\n", b)
		}
		return err
	}
	for kills, first := uint64(0), true; ; first = false {
		s, err := c.Stats()
		if errdefs.IsNotFound(err) && !first {
			return nil
		}
		if err != nil {
			return err
		}
		if s.OOMKills > kills && !first {
			if err := print(ociEvent{Type: "oom", ID: c.ID}); err != nil {
				return err
			}
		}
		kills = s.OOMKills
		if err := print(ociEvent{"stats", c.ID, statsData(s)}); err != nil || once {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
		if status, err := c.Status(); err != nil || status == specs.StateStopped {
			return err
		}
	}
}

// statsData has the shape of runc's events, as go-runc reads it.
func statsData(s cgroup.Stats) map[string]any {
	type m = map[string]any
	entry := func(limit, usage, peak uint64) m { return m{"limit": limit, "usage": usage, "max": peak, "failcnt": 0} }
	devices := func(counts []cgroup.IOCount) []m {
		list := []m{}
		for _, c := range counts {
			list = append(list, m{"major": c.Major, "minor": c.Minor, "op": c.Op, "value": c.Value})
		}
		return list
	}
	usage := m{"total": s.CPU.Nanoseconds(), "kernel": s.CPUSystem.Nanoseconds(), "user": s.CPUUser.Nanoseconds()}
	if s.PerCPU != nil {
		usage["percpu"] = s.PerCPU
	}
	return m{
		"cpu": m{"usage": usage,
			"throttling": m{"periods": s.Periods, "throttledPeriods": s.ThrottledPeriods, "throttledTime": s.Throttled.Nanoseconds()}},
		"memory": m{"cache": s.MemoryCache, "usage": entry(s.MemoryLimit, s.MemoryUsage, s.MemoryPeak), "swap": entry(0, 0, 0),
			"kernel": entry(0, 0, 0), "kernelTCP": entry(0, 0, 0)},
		"pids":               m{"current": s.Pids, "limit": s.PidsLimit},
		"blkio":              m{"ioServiceBytesRecursive": devices(s.IOBytes), "ioServicedRecursive": devices(s.IOs)},
		"hugetlb":            m{},
		"intel_rdt":          m{},
		"network_interfaces": nil,
	}
}
