package inspect

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner"
)

// hostLimits is the inverse of resources and of what stands beside it.
func hostLimits(h *container.HostConfig, o *runner.Options) {
	for _, l := range o.Rlimits {
		name := strings.ToLower(strings.TrimPrefix(l.Type, "RLIMIT_"))
		h.Ulimits = append(h.Ulimits, &container.Ulimit{Name: name, Soft: int64(l.Soft), Hard: int64(l.Hard)})
	}
	h.Devices = []container.DeviceMapping{}
	for _, d := range o.Devices {
		h.Devices = append(h.Devices, container.DeviceMapping{PathOnHost: d.Source, PathInContainer: d.Target, CgroupPermissions: d.Access})
	}
	for _, r := range o.DeviceRules {
		h.DeviceCgroupRules = append(h.DeviceCgroupRules, ruleText(r))
	}
	if len(o.CDIDevices) > 0 {
		h.DeviceRequests = []container.DeviceRequest{{Driver: "cdi", DeviceIDs: o.CDIDevices}}
	}
	r := o.Resources
	if r == nil {
		return
	}
	if m := r.Memory; m != nil {
		h.Memory, h.MemorySwap, h.MemoryReservation = value(m.Limit), value(m.Swap), value(m.Reservation)
		if m.DisableOOMKiller != nil {
			h.OomKillDisable = m.DisableOOMKiller
		}
		if m.Swappiness != nil {
			n := int64(*m.Swappiness)
			h.MemorySwappiness = &n
		}
	}
	if c := r.CPU; c != nil {
		h.CpusetCpus, h.CpusetMems = c.Cpus, c.Mems
		h.CPUShares = int64(value(c.Shares))
		h.CPURealtimePeriod, h.CPURealtimeRuntime = int64(value(c.RealtimePeriod)), value(c.RealtimeRuntime)
		quota, period := value(c.Quota), int64(value(c.Period))
		if o.SaysProcessors() {
			h.NanoCPUs = quota * 1e9 / period
		} else {
			h.CPUQuota, h.CPUPeriod = quota, period
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		n := max(0, *r.Pids.Limit)
		h.PidsLimit = &n
	}
	if b := r.BlockIO; b != nil {
		path := func(major, minor int64) string {
			return cmp.Or(o.DeviceName(major, minor), devicePath(major, minor))
		}
		h.BlkioWeight = value(b.Weight)
		for _, d := range b.WeightDevice {
			h.BlkioWeightDevice = append(h.BlkioWeightDevice, &blkiodev.WeightDevice{Path: path(d.Major, d.Minor), Weight: value(d.Weight)})
		}
		h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = throttles(b.ThrottleReadBpsDevice, path), throttles(b.ThrottleWriteBpsDevice, path)
		h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps = throttles(b.ThrottleReadIOPSDevice, path), throttles(b.ThrottleWriteIOPSDevice, path)
	}
}

// ruleText is a rule in the words of --device-cgroup-rule.
func ruleText(r specs.LinuxDeviceCgroup) string {
	number := func(n *int64) string {
		if n == nil {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	return r.Type + " " + number(r.Major) + ":" + number(r.Minor) + " " + r.Access
}

func throttles(list []specs.LinuxThrottleDevice, path func(major, minor int64) string) (out []*blkiodev.ThrottleDevice) {
	for _, d := range list {
		out = append(out, &blkiodev.ThrottleDevice{Path: path(d.Major, d.Minor), Rate: d.Rate})
	}
	return out
}

// devicePath is a block device's usual name, or its numbers if it has none.
func devicePath(major, minor int64) string {
	numbers := fmt.Sprintf("%d:%d", major, minor)
	link, err := os.Readlink("/sys/dev/block/" + numbers)
	if err != nil {
		return numbers
	}
	return "/dev/" + filepath.Base(link)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
