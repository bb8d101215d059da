package oci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// checkProc refuses what would stand in the place of procfs or in it: there the kernel's files
// are read, and masked or read-only ones are hidden only where they are expected. As in runc,
// files that lxcfs emulates are excepted, and the procfs of the host may be bound on /proc.
func (c *compiler) checkProc(m specs.Mount, dest string, o mountOptions) error {
	switch {
	case dest == "/proc" && o.isBind(m):
		var fs unix.Statfs_t
		_, detached := c.opts.Detached[dest]
		if err := unix.Statfs(m.Source, &fs); detached || err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
			return fmt.Errorf("it is not of type proc: %w", errdefs.ErrInvalidArgument)
		}
	case dest == "/proc" && m.Type != "proc":
		return fmt.Errorf("it is not of type proc: %w", errdefs.ErrInvalidArgument)
	case strings.HasPrefix(dest, "/proc/") && !emulated(dest):
		return fmt.Errorf("it is inside /proc: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// emulated says that a file of procfs may be covered.
func emulated(dest string) bool {
	return slices.Contains([]string{
		"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
		"/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
	}, dest)
}

// notInProc fails if a target that was found by way of links is in procfs.
func (c *compiler) notInProc(target launch.Ref, dest string) {
	if dest == "/proc" || emulated(dest) {
		return // see checkProc
	}
	c.Call(unix.SYS_FSTATFS, launch.Result(target), c.stat) // struct statfs is smaller, and begins with f_type
	inside := c.Check(ignore(unix.EPERM), c.stat, 8, ^uint64(0), unix.PROC_SUPER_MAGIC, unix.EPERM)
	c.Fail(launch.Cond{When: inside}, unix.EPERM)
}
