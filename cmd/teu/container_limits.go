package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner"
)

// setMore sets the limits few people need: block I/O and what only cgroup v1 has.
func (c *containerFlags) setMore(r *specs.LinuxResources) error {
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
		if c.blkioWeight < 10 || c.blkioWeight > 1000 {
			return fmt.Errorf("range of blkio weight is from 10 to 1000")
		}
		io.Weight, r.BlockIO = &c.blkioWeight, io
	}
	for _, text := range c.blkioWeightDevice {
		d, rate, err := deviceRate(text, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 16) })
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
			d, _, err := deviceRate(text, t.parse)
			if err != nil {
				return err
			}
			*t.to, r.BlockIO = append(*t.to, d), io
		}
	}
	return nil
}

// deviceRate understands PATH:RATE.
func deviceRate(text string, parse func(string) (uint64, error)) (d specs.LinuxThrottleDevice, rate uint64, err error) {
	path, value, ok := strings.Cut(text, ":")
	if !ok || value == "" {
		return d, 0, fmt.Errorf("bad format: %s", text)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return d, 0, fmt.Errorf("bad format for device path: %s", text)
	}
	if rate, err = parse(value); err != nil {
		return d, 0, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]", text)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return d, 0, err
	}
	dev := fi.Sys().(*syscall.Stat_t).Rdev
	d.Major, d.Minor, d.Rate = int64(unix.Major(dev)), int64(unix.Minor(dev)), rate
	return d, rate, nil
}

// setDeviceRules understands "c 189:* rwm".
func (c *containerFlags) setDeviceRules(o *runner.Options) error {
	for _, text := range c.deviceRules {
		f := strings.Fields(text)
		if len(f) != 3 || !strings.Contains("abc", f[0]) || len(f[0]) != 1 || strings.Trim(f[2], "rwm") != "" {
			return fmt.Errorf("invalid device cgroup format '%s'", text)
		}
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
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
				return fmt.Errorf("invalid device cgroup format '%s'", text)
			}
			*n.to = &v
		}
		o.DeviceRules = append(o.DeviceRules, rule)
	}
	return nil
}
