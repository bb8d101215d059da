package engine

import (
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/spec"
)

// resources turns docker's limits into the runtime spec's. What is not set stays nil.
func resources(h *container.Resources) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	m := specs.LinuxMemory{}
	set := func(to **int64, n int64) {
		if n != 0 {
			*to = &n
		}
	}
	set(&m.Limit, h.Memory)
	set(&m.Swap, h.MemorySwap)
	set(&m.Reservation, h.MemoryReservation)
	if s := h.MemorySwappiness; s != nil && *s != -1 {
		if *s < 0 {
			return nil, invalid("Invalid value: %d, valid memory swappiness range is 0-100", *s)
		}
		n := uint64(*s)
		m.Swappiness = &n
	}
	if h.OomKillDisable != nil && *h.OomKillDisable {
		m.DisableOOMKiller = h.OomKillDisable
	}
	if m != (specs.LinuxMemory{}) {
		r.Memory = &m
	}
	cpu := specs.LinuxCPU{Cpus: h.CpusetCpus, Mems: h.CpusetMems}
	n := runner.CPU{
		Shares: h.CPUShares, Period: h.CPUPeriod, Quota: h.CPUQuota, Nano: h.NanoCPUs,
		RealtimePeriod: h.CPURealtimePeriod, RealtimeRuntime: h.CPURealtimeRuntime,
	}
	if err := n.Set(&cpu); err != nil {
		return nil, err
	}
	if cpu != (specs.LinuxCPU{}) {
		r.CPU = &cpu
	}
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		r.Pids = &specs.LinuxPids{Limit: h.PidsLimit}
	}
	var err error
	r.BlockIO, err = blockIO(h)
	return r, err
}

func blockIO(h *container.Resources) (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	used := false
	if h.BlkioWeight > 0 {
		b.Weight, used = &h.BlkioWeight, true
	}
	for _, w := range h.BlkioWeightDevice {
		major, minor, err := deviceNumber(w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = major, minor
		b.WeightDevice, used = append(b.WeightDevice, d), true
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{h.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice}, {h.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{h.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice}, {h.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, l := range t.from {
			major, minor, err := deviceNumber(l.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: l.Rate}
			d.Major, d.Minor = major, minor
			*t.to, used = append(*t.to, d), true
		}
	}
	if !used {
		return nil, nil
	}
	return b, nil
}

// blockDevices are the paths of the devices that have limits.
func blockDevices(h *container.Resources) (paths []string) {
	for _, w := range h.BlkioWeightDevice {
		paths = append(paths, w.Path)
	}
	for _, l := range slices.Concat(h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps, h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps) {
		paths = append(paths, l.Path)
	}
	return paths
}

func deviceNumber(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, invalid("device %s: %s", path, err)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

func setLimits(b *createRequest, o *runner.Options) (err error) {
	h := b.HostConfig
	if o.Resources, err = resources(&h.Resources); err != nil {
		return err
	}
	for _, path := range blockDevices(&h.Resources) {
		if major, minor, err := deviceNumber(path); err == nil {
			o.NameDevice(major, minor, path)
		}
	}
	o.QuotaSaid = h.CPUPeriod != 0 || h.CPUQuota != 0
	if h.OomScoreAdj != 0 {
		o.OOMScoreAdj = &h.OomScoreAdj
	}
	for _, u := range h.Ulimits {
		if u == nil {
			continue
		}
		if _, err := units.ParseUlimit(u.Name + "=" + strconv.FormatInt(u.Soft, 10) + ":" + strconv.FormatInt(u.Hard, 10)); err != nil {
			return invalid("%s", err)
		}
		o.Rlimits = append(o.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return nil
}

func setDevices(b *createRequest, o *runner.Options) error {
	for _, d := range b.HostConfig.Devices {
		one := spec.Device{Source: d.PathOnHost, Target: d.PathInContainer, Access: d.CgroupPermissions}
		if one.Access == "" {
			one.Access = "rwm"
		}
		if strings.Trim(one.Access, "rwm") != "" {
			return invalid("invalid device mode: %s", one.Access)
		}
		o.Devices = append(o.Devices, one)
	}
	for _, r := range b.HostConfig.DeviceRequests {
		if r.Driver == "cdi" {
			o.CDIDevices = append(o.CDIDevices, r.DeviceIDs...)
			continue
		}
		names, err := runner.GPURequest{Driver: r.Driver, Count: r.Count, DeviceIDs: r.DeviceIDs, Capabilities: r.Capabilities}.Devices()
		if err != nil {
			return err
		}
		o.CDIDevices = append(o.CDIDevices, names...)
	}
	for _, text := range b.HostConfig.DeviceCgroupRules {
		rule, err := deviceRule(text)
		if err != nil {
			return err
		}
		o.DeviceRules = append(o.DeviceRules, rule)
	}
	return nil
}

// deviceRule reads "c 1:3 rwm" with * for any number.
func deviceRule(text string) (rule specs.LinuxDeviceCgroup, err error) {
	bad := invalid("invalid device cgroup rule format: '%s'", text)
	f := strings.Fields(text)
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) || strings.Trim(f[2], "rwm") != "" {
		return rule, bad
	}
	rule = specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return rule, bad
	}
	for text, to := range map[*string]**int64{&major: &rule.Major, &minor: &rule.Minor} {
		if *text == "*" {
			continue
		}
		n, err := strconv.ParseInt(*text, 10, 32)
		if err != nil || n < 0 {
			return rule, bad
		}
		*to = &n
	}
	return rule, nil
}

func setSecurity(b *createRequest, o *runner.Options) error {
	h := b.HostConfig
	if o.Umask = h.Umask; o.Umask != nil && *o.Umask > 0o777 {
		return invalid("invalid umask %#o: it is a number from 0 to 0777", *o.Umask)
	}
	o.MaskedPaths, o.ReadonlyPaths = h.MaskedPaths, h.ReadonlyPaths
	return o.SetSecurity(h.SecurityOpt)
}

func setLog(b *createRequest, o *runner.Options) error {
	return o.SetLog(b.HostConfig.LogConfig.Type, b.HostConfig.LogConfig.Config)
}
