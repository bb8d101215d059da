package runner

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/cgroup"
)

// Stats are the counters of a container at one moment. All of a container that does not
// run are zero. CPU of the host and of the container have one clock, so that a share is
// the quotient of their differences between two moments.
type Stats struct {
	ID, Name string
	Read     time.Time // zero: nothing was read
	cgroup.Stats
	HostCPU  time.Duration // of all processors, idle time too, since boot
	CPUs     int           // processors online
	Networks map[string]NetworkStats
}

// NetworkStats are the counters of an interface of the container, as seen in it.
type NetworkStats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Stats reads the counters of a container once.
func (e *Engine) Stats(ctx context.Context, ref string) (Stats, error) {
	return Stats{}, errdefs.ErrNotImplemented
}

// StatsStream calls fn with the counters of a container about every second, together with
// those before (zero at first), until ctx ends, the container is removed, or fn fails.
func (e *Engine) StatsStream(ctx context.Context, ref string, fn func(before, now Stats) error) error {
	return errdefs.ErrNotImplemented
}
