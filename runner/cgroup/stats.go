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
	s, err := g.usage()
	if err != nil {
		return s, err
	}
	if g.host.mode == V2 {
		g.detailV2(&s)
	} else {
		g.detailV1(&s)
	}
	return s, nil
}

// Usage is what a list of many shows of Stats, for half the work: memory, CPU, processes, and bytes
// read and written. It has no peak, no kills, no parts of the CPU time, no limit of processes, and of
// Memory only what MemoryCache is.
func (g *Group) Usage() (Stats, error) { return g.usage(g.cacheKey()) }

// cacheKey names in memory.stat what could be dropped at once.
func (g *Group) cacheKey() string {
	if g.host.mode == V2 {
		return "inactive_file"
	}
	return "total_inactive_file"
}

// usage reads the keys named of memory.stat, or all.
func (g *Group) usage(memoryKeys ...string) (Stats, error) {
	if g.host.mode == None {
		return Stats{}, fmt.Errorf("this host has no control groups: %w", errdefs.ErrNotImplemented)
	}
	if _, err := os.Stat(g.dir(g.host.inUse()[0])); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return Stats{}, fmt.Errorf("control group %s: %w", g.path, errdefs.ErrNotFound)
		}
		return Stats{}, err
	}
	var s Stats
	if g.host.mode == V2 {
		s = g.usageV2(memoryKeys)
	} else {
		s = g.usageV1(memoryKeys)
	}
	s.MemoryCache = s.Memory[g.cacheKey()]
	return s, nil
}

// CPU is Stats().CPU, for a tenth of the work.
func (g *Group) CPU() time.Duration {
	var total uint64
	switch g.host.mode {
	case V1:
		g.inV1("cpuacct", func(dir string) { total, _ = readUint(dir, "cpuacct.usage") })
	case V2:
		stat, _ := readKeys(g.dir(g.host.hierarchies[0]), "cpu.stat", "usage_usec")
		total = stat["usage_usec"] * uint64(time.Microsecond)
	}
	return time.Duration(total)
}

// inV1 calls read with the group's directory of a controller, if the host has it.
func (g *Group) inV1(controller string, read func(dir string)) {
	if hi, ok := g.host.find(controller); ok {
		read(g.dir(hi))
	}
}

func (g *Group) usageV1(memoryKeys []string) (s Stats) {
	g.inV1("memory", func(dir string) {
		s.MemoryUsage, _ = readUint(dir, "memory.usage_in_bytes")
		s.MemoryLimit, _ = readUint(dir, "memory.limit_in_bytes")
		s.Memory, _ = readKeys(dir, "memory.stat", memoryKeys...)
	})
	s.CPU = g.CPU()
	g.inV1("pids", func(dir string) { s.Pids, _ = readUint(dir, "pids.current") })
	g.inV1("blkio", func(dir string) {
		text, _ := readFile(dir, "blkio.throttle.io_service_bytes_recursive")
		s.IOBytes = parseIOV1(text)
	})
	s.sumIO()
	return s
}

func (g *Group) detailV1(s *Stats) {
	g.inV1("memory", func(dir string) {
		s.MemoryPeak, _ = readUint(dir, "memory.max_usage_in_bytes")
		oom, _ := readKeys(dir, "memory.oom_control")
		s.OOMKills = oom["oom_kill"]
		s.MemoryFailures, _ = readUint(dir, "memory.failcnt")
	})
	g.inV1("cpuacct", func(dir string) {
		user, _ := readUint(dir, "cpuacct.usage_user")
		system, _ := readUint(dir, "cpuacct.usage_sys")
		s.CPUUser, s.CPUSystem = time.Duration(user), time.Duration(system)
		each, _ := readFile(dir, "cpuacct.usage_percpu")
		for field := range strings.FieldsSeq(each) {
			n, _ := strconv.ParseUint(field, 10, 64)
			s.PerCPU = append(s.PerCPU, n)
		}
	})
	g.inV1("cpu", func(dir string) {
		stat, _ := readKeys(dir, "cpu.stat")
		s.Throttled = time.Duration(stat["throttled_time"])
		s.Periods, s.ThrottledPeriods = stat["nr_periods"], stat["nr_throttled"]
	})
	g.inV1("blkio", func(dir string) {
		text, _ := readFile(dir, "blkio.throttle.io_serviced_recursive")
		s.IOs = parseIOV1(text)
	})
	g.inV1("pids", func(dir string) { s.PidsLimit, _ = readUint(dir, "pids.max") })
}

func (g *Group) usageV2(memoryKeys []string) (s Stats) {
	dir := g.dir(g.host.hierarchies[0])
	s.MemoryUsage, _ = readUint(dir, "memory.current")
	s.MemoryLimit, _ = readUint(dir, "memory.max")
	s.Memory, _ = readKeys(dir, "memory.stat", memoryKeys...)
	s.CPU = g.CPU()
	s.Pids, _ = readUint(dir, "pids.current")
	io, _ := readFile(dir, "io.stat")
	s.IOBytes = parseIOV2(io)
	s.sumIO()
	return s
}

func (g *Group) detailV2(s *Stats) {
	dir := g.dir(g.host.hierarchies[0])
	s.MemoryPeak, _ = readUint(dir, "memory.peak")
	events, _ := readKeys(dir, "memory.events")
	s.OOMKills = events["oom_kill"]
	cpu, _ := readKeys(dir, "cpu.stat")
	s.CPUUser = time.Duration(cpu["user_usec"]) * time.Microsecond
	s.CPUSystem = time.Duration(cpu["system_usec"]) * time.Microsecond
	s.Throttled = time.Duration(cpu["throttled_usec"]) * time.Microsecond
	s.Periods, s.ThrottledPeriods = cpu["nr_periods"], cpu["nr_throttled"]
	s.PidsLimit, _ = readUint(dir, "pids.max")
}

// parseIOV1 reads lines as "8:0 Read 4096". The last line is a sum of all devices, and left out.
func parseIOV1(text string) (list []IOCount) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		if major, minor, ok := parseDevice(f[0]); ok {
			n, _ := strconv.ParseUint(f[2], 10, 64)
			list = append(list, IOCount{major, minor, f[1], n})
		}
	}
	return list
}

// parseIOV2 reads the bytes of lines as "8:0 rbytes=4096 wbytes=0 rios=1 ...".
func parseIOV2(text string) (list []IOCount) {
	for line := range strings.Lines(text) {
		device, counts, _ := strings.Cut(line, " ")
		major, minor, ok := parseDevice(device)
		if !ok {
			continue
		}
		for field := range strings.FieldsSeq(counts) {
			key, value, _ := strings.Cut(field, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				list = append(list, IOCount{major, minor, "read", n})
			case "wbytes":
				list = append(list, IOCount{major, minor, "write", n})
			}
		}
	}
	return list
}

func parseDevice(s string) (major, minor uint64, ok bool) {
	a, b, _ := strings.Cut(s, ":")
	major, err := strconv.ParseUint(a, 10, 32)
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.ParseUint(b, 10, 32)
	return major, minor, err == nil
}

func (s *Stats) sumIO() {
	for _, c := range s.IOBytes {
		switch c.Op {
		case "read", "Read":
			s.ReadBytes += c.Value
		case "write", "Write":
			s.WriteBytes += c.Value
		}
	}
}
