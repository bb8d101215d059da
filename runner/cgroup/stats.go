package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Stats reads the counters. A group that is gone is an errdefs.ErrNotFound, a host without
// cgroups an errdefs.ErrNotImplemented. What the host does not count is zero.
func (g *Group) Stats() (Stats, error) {
	if g.host.mode == None {
		return Stats{}, fmt.Errorf("this host has no control groups: %w", errdefs.ErrNotImplemented)
	}
	if _, err := os.Stat(g.dir(g.host.inUse()[0])); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return Stats{}, fmt.Errorf("control group %s: %w", g.path, errdefs.ErrNotFound)
		}
		return Stats{}, err
	}
	if g.host.mode == V2 {
		return g.statsV2(), nil
	}
	return g.statsV1(), nil
}

// CPU is Stats().CPU, for a tenth of the work.
func (g *Group) CPU() time.Duration {
	switch g.host.mode {
	case V1:
		if hi, ok := g.host.find("cpuacct"); ok {
			n, _ := readUint(g.dir(hi), "cpuacct.usage")
			return time.Duration(n)
		}
	case V2:
		stat, _ := readKeys(g.dir(g.host.hierarchies[0]), "cpu.stat")
		return time.Duration(stat["usage_usec"]) * time.Microsecond
	}
	return 0
}

func (g *Group) statsV1() Stats {
	var s Stats
	in := func(controller string, read func(dir string)) {
		if hi, ok := g.host.find(controller); ok {
			read(g.dir(hi))
		}
	}
	in("memory", func(dir string) {
		s.MemoryUsage, _ = readUint(dir, "memory.usage_in_bytes")
		s.MemoryLimit, _ = readUint(dir, "memory.limit_in_bytes")
		s.MemoryPeak, _ = readUint(dir, "memory.max_usage_in_bytes")
		s.Memory, _ = readKeys(dir, "memory.stat")
		s.MemoryCache = s.Memory["total_inactive_file"]
		oom, _ := readKeys(dir, "memory.oom_control")
		s.OOMKills = oom["oom_kill"]
	})
	in("cpuacct", func(dir string) {
		total, _ := readUint(dir, "cpuacct.usage")
		user, _ := readUint(dir, "cpuacct.usage_user")
		system, _ := readUint(dir, "cpuacct.usage_sys")
		s.CPU, s.CPUUser, s.CPUSystem = time.Duration(total), time.Duration(user), time.Duration(system)
	})
	in("cpu", func(dir string) {
		stat, _ := readKeys(dir, "cpu.stat")
		s.Throttled = time.Duration(stat["throttled_time"])
	})
	in("pids", func(dir string) {
		s.Pids, _ = readUint(dir, "pids.current")
		s.PidsLimit, _ = readUint(dir, "pids.max")
	})
	in("blkio", func(dir string) {
		text, _ := readFile(dir, "blkio.throttle.io_service_bytes_recursive")
		for line := range strings.Lines(text) {
			f := strings.Fields(line) // "8:0 Read 4096"
			if len(f) == 3 {
				n, _ := strconv.ParseUint(f[2], 10, 64)
				switch f[1] {
				case "Read":
					s.ReadBytes += n
				case "Write":
					s.WriteBytes += n
				}
			}
		}
	})
	return s
}

func (g *Group) statsV2() Stats {
	var s Stats
	dir := g.dir(g.host.hierarchies[0])
	s.MemoryUsage, _ = readUint(dir, "memory.current")
	s.MemoryLimit, _ = readUint(dir, "memory.max")
	s.MemoryPeak, _ = readUint(dir, "memory.peak")
	s.Memory, _ = readKeys(dir, "memory.stat")
	s.MemoryCache = s.Memory["inactive_file"]
	events, _ := readKeys(dir, "memory.events")
	s.OOMKills = events["oom_kill"]
	cpu, _ := readKeys(dir, "cpu.stat")
	s.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	s.CPUUser = time.Duration(cpu["user_usec"]) * time.Microsecond
	s.CPUSystem = time.Duration(cpu["system_usec"]) * time.Microsecond
	s.Throttled = time.Duration(cpu["throttled_usec"]) * time.Microsecond
	s.Pids, _ = readUint(dir, "pids.current")
	s.PidsLimit, _ = readUint(dir, "pids.max")
	io, _ := readFile(dir, "io.stat")
	for field := range strings.FieldsSeq(io) { // "8:0 rbytes=4096 wbytes=0 ..."
		key, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch key {
		case "rbytes":
			s.ReadBytes += n
		case "wbytes":
			s.WriteBytes += n
		}
	}
	return s
}
