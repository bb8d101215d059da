package runner

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/keeper"
)

// TestCheckLimits: what the kernel would refuse, or what limits nothing, is refused in docker's words.
func TestCheckLimits(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	memory := func(limit, swap, reservation int64) *Options {
		return &Options{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: &reservation}}}
	}
	cpu := func(cpu specs.LinuxCPU) *Options { return &Options{Resources: &specs.LinuxResources{CPU: &cpu}} }
	weight, swappiness, adj, short := uint16(5), uint64(101), 1001, uint64(999)
	for _, c := range []struct {
		o     *Options
		words string // "" if it is allowed
	}{
		{&Options{}, ""},
		{memory(6<<20, 0, 0), ""},
		{memory(6<<20, -1, 6<<20), ""},
		{memory(1, 0, 0), "Minimum memory limit allowed is 6MB"},
		{memory(-1, 0, 0), "Minimum memory limit allowed is 6MB"},
		{memory(7<<20, 6<<20, 0), "Minimum memoryswap limit should be larger"},
		{memory(0, 6<<20, 0), "always set the Memory limit when using Memoryswap"},
		{memory(0, 0, 1), "Minimum memory reservation allowed is 6MB"},
		{memory(6<<20, 0, 7<<20), "less than memory reservation limit"},
		{&Options{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &swappiness}}}, "Invalid value: 101"},
		{&Options{Resources: &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: &weight}}}, "Range of blkio weight"},
		{&Options{OOMScoreAdj: &adj}, "Invalid value 1001, range for oom score adj"},
		{&Options{ShmSize: -1}, "SHM size"},
		{cpu(specs.LinuxCPU{Cpus: "0", Mems: "0", Quota: n(-1)}), ""},
		{cpu(specs.LinuxCPU{Cpus: "0-"}), "Invalid value 0- for cpuset cpus: invalid format: 0-"},
		{cpu(specs.LinuxCPU{Mems: "1-0"}), "Invalid value 1-0 for cpuset mems: invalid format: 1-0"},
		{cpu(specs.LinuxCPU{Cpus: "0,60000"}), "Requested CPUs are not available - requested 0,60000, available: 0"},
		{cpu(specs.LinuxCPU{Mems: "60000"}), "Requested memory nodes are not available"},
		{cpu(specs.LinuxCPU{Period: &short}), "CPU cfs period can not be less than 1ms"},
		{cpu(specs.LinuxCPU{Quota: n(999)}), "CPU cfs quota can not be less than 1ms"},
	} {
		err := c.o.checkLimits()
		if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.words)
		}
	}
}

// TestRestartPolicies: what moby refuses, in its words.
func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		o     Options
		words string
	}{
		{Options{Restart: keeper.RestartPolicy{Name: "on-failure", MaxRetries: 3}}, ""},
		{Options{Restart: keeper.RestartPolicy{Name: "always"}}, ""},
		{Options{Restart: keeper.RestartPolicy{Name: "always", MaxRetries: 3}}, "maximum retry count can only be used with 'on-failure'"},
		{Options{Restart: keeper.RestartPolicy{Name: "on-failure", MaxRetries: -1}}, "maximum retry count cannot be negative"},
		{Options{Restart: keeper.RestartPolicy{Name: "never"}}, "unknown policy 'never'"},
		{Options{Hostname: strings.Repeat("h", 64)}, ""},
		{Options{Hostname: strings.Repeat("h", 65)}, "is too long (maximum 64 bytes)"},
		{Options{Network: "container:"}, "invalid container format container:<name|id>"},
	} {
		err := c.o.check()
		if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%+v: %v, want %q", c.o.Restart, err, c.words)
		}
	}
}

// TestCPU: processors are limited in one of docker's two ways, never in both.
func TestCPU(t *testing.T) {
	var got specs.LinuxCPU
	if err := (CPU{Shares: 5, Nano: 5e8}).Set(&got); err != nil || *got.Shares != 5 || *got.Period != 100000 || *got.Quota != 50000 {
		t.Errorf("%+v, %v", got, err)
	}
	got = specs.LinuxCPU{}
	if err := (CPU{}).Set(&got); err != nil || got != (specs.LinuxCPU{}) {
		t.Errorf("%+v, %v", got, err)
	}
	for c, words := range map[CPU]string{
		{Shares: -1}:                            "invalid CPU shares (-1)",
		{Nano: 1, Period: 1}:                    "Nano CPUs and CPU Period cannot both be set",
		{Nano: 1, Quota: 1}:                     "Nano CPUs and CPU Quota cannot both be set",
		{Nano: -1}:                              "range of CPUs is from 0.01 to",
		{Nano: int64(runtime.NumCPU())*1e9 + 1}: "range of CPUs is from 0.01 to",
	} {
		if err := c.Set(&got); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", c, err, words)
		}
	}
}

// An update of one limit of a kind leaves the others of that kind.
func TestMergeResources(t *testing.T) {
	limit, swappiness, weight, cpus := int64(1<<30), uint64(10), uint16(300), "0"
	was := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Swappiness: &swappiness},
		CPU:     &specs.LinuxCPU{Cpus: cpus},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1 << 20}}},
	}
	period := uint64(50000)
	got := mergeResources(was, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Period: &period}, BlockIO: &specs.LinuxBlockIO{Weight: &weight},
	})
	want := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: &limit, Swappiness: &swappiness},
		CPU:     &specs.LinuxCPU{Cpus: cpus, Period: &period},
		BlockIO: &specs.LinuxBlockIO{Weight: &weight, ThrottleReadBpsDevice: was.BlockIO.ThrottleReadBpsDevice},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, of block devices %+v", got, got.BlockIO)
	}
}
