package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
)

// Stats are the counters of a container at one moment. All of a container that does not
// run are zero. CPU of the host and of the container have one clock, so that a share is
// the quotient of their differences between two moments.
type Stats struct {
	ID, Name string
	Read     time.Time // zero: the container does not run
	cgroup.Stats
	HostCPU    time.Duration // of all processors, idle time too, since boot
	HostMemory uint64        // bytes; what a container without a limit may use
	CPUs       int           // processors online
	Networks   map[string]NetworkStats
}

// NetworkStats are the counters of an interface of the container, as seen in it.
type NetworkStats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Stats reads the counters of a container once.
func (e *Engine) Stats(ctx context.Context, ref string) (Stats, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return Stats{}, err
	}
	return e.stats(c, readHost(), (*cgroup.Group).Stats)
}

// StatsOf reads what a list shows of the counters of many containers (cgroup.Group.Usage).
// One that cannot be read has none.
func (e *Engine) StatsOf(all []*Container) []Stats {
	host := readHost()
	list := make([]Stats, len(all))
	each(len(all), func(i int) {
		s, err := e.stats(all[i], host, (*cgroup.Group).Usage)
		if err != nil {
			s = Stats{ID: all[i].ID, Name: all[i].Name}
		}
		list[i] = s
	})
	return list
}

// CPUOf is StatsOf for who only wants to see the CPU time grow: the rest is zero.
func (e *Engine) CPUOf(all []*Container) []Stats {
	list := make([]Stats, len(all))
	each(len(all), func(i int) {
		c := all[i]
		list[i] = Stats{ID: c.ID, Name: c.Name}
		g, err := e.cgroup(c)
		if err != nil {
			return
		}
		if cpu := g.CPU(); cpu > 0 { // or its group is gone
			list[i].CPU, list[i].Read = cpu, time.Now()
		}
	})
	return list
}

// statsInterval is docker's.
const statsInterval = time.Second

// StatsStream calls fn with the counters of a container about every second, together with
// those before (zero at first), until ctx ends, the container is removed, or fn fails.
func (e *Engine) StatsStream(ctx context.Context, ref string, fn func(before, now Stats) error) error {
	var before Stats
	for {
		now, err := e.Stats(ctx, ref)
		if err != nil {
			if errors.Is(err, errdefs.ErrNotFound) && before.ID != "" {
				return nil
			}
			return err
		}
		if err := fn(before, now); err != nil {
			return err
		}
		ref, before = now.ID, now
		if pause(ctx, statsInterval) != nil {
			return nil
		}
	}
}

// hostCounters are those that all containers share.
type hostCounters struct {
	cpu    time.Duration
	memory uint64
	cpus   int
}

func readHost() hostCounters {
	h := hostCounters{cpus: runtime.NumCPU()}
	b, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(first) {
		if i == 0 || i > 8 { // guest time is part of user time, proc_stat(5)
			continue
		}
		n, _ := strconv.ParseInt(field, 10, 64)
		h.cpu += time.Duration(n) * statefile.Tick
	}
	b, _ = os.ReadFile("/proc/meminfo")
	fmt.Sscanf(string(b), "MemTotal: %d", &h.memory)
	h.memory *= 1024
	return h
}

// stats reads the counters of a container, those of its control group by read.
func (e *Engine) stats(c *Container, host hostCounters, read func(*cgroup.Group) (cgroup.Stats, error)) (Stats, error) {
	s := Stats{ID: c.ID, Name: c.Name}
	if !c.State.Alive() {
		return s, nil
	}
	g, err := e.cgroup(c)
	if err != nil {
		return s, err
	}
	s.Stats, err = read(g)
	if err != nil && !errors.Is(err, errdefs.ErrNotImplemented) && !errors.Is(err, errdefs.ErrNotFound) {
		return s, err
	}
	s.Read, s.HostCPU, s.HostMemory, s.CPUs = time.Now(), host.cpu, host.memory, host.cpus
	if c.Options.networkMode() != "host" {
		s.Networks = readNetworks(c.State.Init.PID)
	}
	return s, nil
}

// readNetworks reads the interfaces of a process's network but the loopback; proc_net(5).
func readNetworks(pid int) map[string]NetworkStats {
	b, err := statefile.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid), 1<<20)
	if err != nil {
		return nil
	}
	networks := map[string]NetworkStats{}
	for line := range strings.Lines(string(b)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 16 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		networks[name] = NetworkStats{
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		}
	}
	return networks
}
