package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/cgroup"
)

// TestStatsOfDevicesAndPeriods is what Telegraf, OpenTelemetry's receiver and ctop show a line of for
// each device and processor, and a share of throttled periods.
func TestStatsOfDevicesAndPeriods(t *testing.T) {
	now := runner.Stats{Stats: cgroup.Stats{
		PerCPU: []uint64{30, 40}, Periods: 10, ThrottledPeriods: 4, Throttled: 7,
		IOBytes: []cgroup.IOCount{{Major: 254, Minor: 1, Op: "Read", Value: 4096}},
		IOs:     []cgroup.IOCount{{Major: 254, Minor: 1, Op: "Read", Value: 1}},
	}, Read: time.Unix(1, 0)}
	got := statsJSON(runner.Stats{}, now)
	if want := (container.ThrottlingData{Periods: 10, ThrottledPeriods: 4, ThrottledTime: 7}); got.CPUStats.ThrottlingData != want {
		t.Errorf("throttling: %+v, want %+v", got.CPUStats.ThrottlingData, want)
	}
	if diff := cmp.Diff([]uint64{30, 40}, got.CPUStats.CPUUsage.PercpuUsage); diff != "" {
		t.Errorf("processors: %s", diff)
	}
	if diff := cmp.Diff([]container.BlkioStatEntry{{Major: 254, Minor: 1, Op: "Read", Value: 4096}}, got.BlkioStats.IoServiceBytesRecursive); diff != "" {
		t.Errorf("bytes: %s", diff)
	}
	if diff := cmp.Diff([]container.BlkioStatEntry{{Major: 254, Minor: 1, Op: "Read", Value: 1}}, got.BlkioStats.IoServicedRecursive); diff != "" {
		t.Errorf("operations: %s", diff)
	}
}
