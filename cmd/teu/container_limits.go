package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner"
)

func (c *containerFlags) setLimits(o *runner.Options) error {
	r := &specs.LinuxResources{}
	memory := &specs.LinuxMemory{}
	for _, m := range []struct {
		flag, text string
		to         **int64
	}{
		{"memory", c.memory, &memory.Limit}, {"memory-swap", c.memorySwap, &memory.Swap},
		{"memory-reservation", c.memoryReservation, &memory.Reservation},
	} {
		if m.text == "" {
			continue
		}
		n := int64(-1)
		if m.text != "-1" || m.flag != "memory-swap" {
			var err error
			if n, err = units.RAMInBytes(m.text); err != nil {
				return err
			}
		}
		*m.to = &n
		r.Memory = memory
	}
	if c.shmSize != "" {
		n, err := units.RAMInBytes(c.shmSize)
		if err != nil {
			return err
		}
		o.ShmSize = n
	}
	if err := c.setCPU(r); err != nil {
		return err
	}
	if c.pidsLimit > 0 {
		r.Pids = &specs.LinuxPids{Limit: &c.pidsLimit}
	}
	o.Resources, o.QuotaSaid = r, c.cpuPeriod != 0 || c.cpuQuota != 0
	if err := c.setMore(o, r); err != nil {
		return err
	}
	return c.setUlimits(o)
}

func (c *containerFlags) setCPU(r *specs.LinuxResources) error {
	cpu := &specs.LinuxCPU{Cpus: c.cpusetCPUs, Mems: c.cpusetMems}
	n := runner.CPU{
		Shares: c.cpuShares, Period: c.cpuPeriod, Quota: c.cpuQuota, RealtimePeriod: c.cpuRTPeriod, RealtimeRuntime: c.cpuRTRuntime,
	}
	if c.cpus != "" {
		var err error
		if n.Nano, err = nanoCPUs(c.cpus); err != nil {
			return err
		}
	}
	if err := n.Set(cpu); err != nil {
		return err
	}
	if *cpu != (specs.LinuxCPU{}) {
		r.CPU = cpu
	}
	return nil
}

// setUlimits: the last of one name counts, and they are shown by name.
func (c *containerFlags) setUlimits(o *runner.Options) error {
	all := map[string]specs.POSIXRlimit{}
	for _, text := range c.ulimits {
		u, err := units.ParseUlimit(text)
		if err != nil {
			return err
		}
		all[u.Name] = specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		o.Rlimits = append(o.Rlimits, all[name])
	}
	return nil
}

// setMore sets the limits few people need: block I/O and what only cgroup v1 has.
func (c *containerFlags) setMore(o *runner.Options, r *specs.LinuxResources) error {
	if c.memorySwappiness < -1 || c.memorySwappiness > 100 {
		return fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", c.memorySwappiness)
	}
	if c.memorySwappiness >= 0 || c.oomKillDisable {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		if c.memorySwappiness >= 0 {
			n := uint64(c.memorySwappiness)
			r.Memory.Swappiness = &n
		}
		if c.oomKillDisable {
			r.Memory.DisableOOMKiller = &c.oomKillDisable
		}
	}
	io := &specs.LinuxBlockIO{}
	if c.blkioWeight > 0 {
		io.Weight, r.BlockIO = &c.blkioWeight, io
	}
	for _, text := range c.blkioWeightDevice {
		d, rate, err := deviceRate(o, text, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 16) })
		if err != nil {
			return err
		}
		w := specs.LinuxWeightDevice{Weight: new(uint16)}
		w.Major, w.Minor, *w.Weight = d.Major, d.Minor, uint16(rate)
		io.WeightDevice, r.BlockIO = append(io.WeightDevice, w), io
	}
	bytes := func(s string) (uint64, error) { n, err := units.RAMInBytes(s); return uint64(n), err }
	count := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
	for _, t := range []struct {
		list  []string
		parse func(string) (uint64, error)
		to    *[]specs.LinuxThrottleDevice
	}{
		{c.readBps, bytes, &io.ThrottleReadBpsDevice}, {c.writeBps, bytes, &io.ThrottleWriteBpsDevice},
		{c.readIOps, count, &io.ThrottleReadIOPSDevice}, {c.writeIOps, count, &io.ThrottleWriteIOPSDevice},
	} {
		for _, text := range t.list {
			d, _, err := deviceRate(o, text, t.parse)
			if err != nil {
				return err
			}
			*t.to, r.BlockIO = append(*t.to, d), io
		}
	}
	return nil
}

// deviceRate understands PATH:RATE.
func deviceRate(o *runner.Options, text string, parse func(string) (uint64, error)) (d specs.LinuxThrottleDevice, rate uint64, err error) {
	path, value, err := cutDevice(text)
	if err != nil {
		return d, 0, err
	}
	if rate, err = parse(value); err != nil {
		return d, 0, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return d, 0, err
	}
	dev := fi.Sys().(*syscall.Stat_t).Rdev
	d.Major, d.Minor, d.Rate = int64(unix.Major(dev)), int64(unix.Minor(dev)), rate
	o.NameDevice(d.Major, d.Minor, path)
	return d, rate, nil
}

func (c *containerFlags) setDeviceRules(o *runner.Options) error {
	for _, text := range c.deviceRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		o.DeviceRules = append(o.DeviceRules, rule)
	}
	return nil
}

// parseDeviceRule understands "c 189:* rwm".
func parseDeviceRule(text string) (rule specs.LinuxDeviceCgroup, err error) {
	invalid := fmt.Errorf("invalid device cgroup format '%s'", text)
	f := strings.Fields(text)
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) || len(f[2]) > 3 || strings.Trim(f[2], "rwm") != "" {
		return rule, invalid
	}
	rule = specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	major, minor, ok := strings.Cut(f[1], ":")
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &rule.Major}, {minor, &rule.Minor}} {
		if n.text == "*" && ok {
			continue
		}
		v, err := strconv.ParseInt(n.text, 10, 32)
		if err != nil || v < 0 || !ok {
			return rule, invalid
		}
		*n.to = &v
	}
	return rule, nil
}
