package oci

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
)

func (c *compiler) rlimits() error {
	seen := map[int]bool{}
	for _, r := range c.process.Rlimits {
		n, ok := spec.RlimitNumber(r.Type)
		if !ok || seen[n] || r.Soft > r.Hard {
			return fmt.Errorf("limit %s: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		seen[n] = true
		c.Note("setting limit %s to %d:%d", r.Type, r.Soft, r.Hard)
		c.Call(unix.SYS_PRLIMIT64, launch.Int(0), launch.Int(n), c.Bytes(append(launch.Uint64(r.Soft), launch.Uint64(r.Hard)...)), launch.Int(0))
	}
	return nil
}

// raiseLimits raises the hard limits that are to be above ours. It takes a capability of the
// host, which is gone when the limits are set.
func (c *compiler) raiseLimits() error {
	for _, r := range c.process.Rlimits {
		n, ok := spec.RlimitNumber(r.Type)
		if !ok {
			continue // rlimits will say so
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(n, &now); err != nil {
			return fmt.Errorf("limit %s: %w", r.Type, err)
		}
		if r.Hard <= now.Max {
			continue
		}
		c.Note("raising limit %s to %d", r.Type, r.Hard)
		c.Call(unix.SYS_PRLIMIT64, launch.Int(0), launch.Int(n), c.Bytes(append(launch.Uint64(now.Cur), launch.Uint64(r.Hard)...)), launch.Int(0))
	}
	return nil
}

// enoughFiles raises our limit of open files if it is too low for the descriptors of a start.
// Who forks the child has it from us.
func (c *compiler) enoughFiles() error {
	const others = 8
	least := uint64(firstFD + len(c.rootfs.Overlay.Lowers) + others)
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || now.Cur >= least {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: least, Max: max(now.Max, least)}); err != nil {
		return fmt.Errorf("no more than %d files may be open here, and this container takes %d to start: raise the hard limit (ulimit -Hn): %w",
			now.Max, least, errdefs.ErrResourceExhausted)
	}
	return nil
}

func (c *compiler) personality(domain string, flags int) error {
	persona := 0
	switch {
	case flags > 0:
		return fmt.Errorf("personality flags: %w", errdefs.ErrNotImplemented)
	case domain == "LINUX32":
		persona = 0x0008 // PER_LINUX32, personality(2)
	case domain != "LINUX":
		return fmt.Errorf("personality %q: %w", domain, errdefs.ErrInvalidArgument)
	}
	c.Note("setting the personality %s", domain)
	c.Call(unix.SYS_PERSONALITY, launch.Int(persona))
	return nil
}

// schedule sets how the process is served: processors, input and output, memory.
func (c *compiler) schedule() error {
	if s := c.process.Scheduler; s != nil {
		attr, err := schedulerAttr(s)
		if err != nil {
			return err
		}
		c.Note("setting the scheduler %s", s.Policy)
		c.Call(unix.SYS_SCHED_SETATTR, launch.Int(0), c.Bytes(attr), launch.Int(0))
	}
	if p := c.process.IOPriority; p != nil {
		class := slices.Index([]specs.IOPriorityClass{"", specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE}, p.Class)
		if class < 1 || p.Priority < 0 || p.Priority > 7 {
			return fmt.Errorf("I/O priority %s %d: %w", p.Class, p.Priority, errdefs.ErrInvalidArgument)
		}
		const whoProcess, classShift = 1, 13 // ioprio_set(2)
		c.Note("setting the I/O priority %s", p.Class)
		c.Call(unix.SYS_IOPRIO_SET, launch.Int(whoProcess), launch.Int(0), launch.Int(class<<classShift|p.Priority))
	}
	return c.memoryPolicy()
}

// schedulerAttr is struct sched_attr, version 0; sched_setattr(2).
func schedulerAttr(s *specs.Scheduler) ([]byte, error) {
	policy := slices.Index([]specs.LinuxSchedulerPolicy{specs.SchedOther, specs.SchedFIFO, specs.SchedRR, specs.SchedBatch,
		specs.SchedISO, specs.SchedIdle, specs.SchedDeadline}, s.Policy)
	if policy < 0 {
		return nil, fmt.Errorf("scheduler %q: %w", s.Policy, errdefs.ErrInvalidArgument)
	}
	names := []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun, specs.SchedFlagKeepPolicy,
		specs.SchedFlagKeepParams, specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax}
	var flags uint64
	for _, f := range s.Flags {
		bit := slices.Index(names, f)
		if bit < 0 {
			return nil, fmt.Errorf("scheduler flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
		flags |= 1 << bit
	}
	const size = 48
	b := append(launch.Uint32(size), launch.Uint32(uint32(policy))...)
	b = append(b, launch.Uint64(flags)...)
	b = append(b, launch.Uint32(uint32(s.Nice))...)
	b = append(b, launch.Uint32(uint32(s.Priority))...)
	for _, v := range []uint64{s.Runtime, s.Deadline, s.Period} {
		b = append(b, launch.Uint64(v)...)
	}
	return b, nil
}

// memoryPolicy is set_mempolicy(2).
func (c *compiler) memoryPolicy() error {
	p := c.spec.Linux.MemoryPolicy
	if p == nil {
		return nil
	}
	mode := slices.Index([]specs.MemoryPolicyModeType{specs.MpolDefault, specs.MpolPreferred, specs.MpolBind, specs.MpolInterleave,
		specs.MpolLocal, specs.MpolPreferredMany, specs.MpolWeightedInterleave}, p.Mode)
	if mode < 0 {
		return fmt.Errorf("invalid memory policy mode %q: %w", p.Mode, errdefs.ErrInvalidArgument)
	}
	for _, f := range p.Flags {
		switch f {
		case specs.MpolFNumaBalancing:
			mode |= 1 << 13
		case specs.MpolFRelativeNodes:
			mode |= 1 << 14
		case specs.MpolFStaticNodes:
			mode |= 1 << 15
		default:
			return fmt.Errorf("invalid memory policy flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	nodes, err := parseSet(p.Nodes)
	if err != nil {
		return fmt.Errorf("invalid memory policy nodes: %w", err)
	}
	c.Note("setting the memory policy %s", p.Mode)
	if len(p.Nodes) == 0 {
		c.Call(unix.SYS_SET_MEMPOLICY, launch.Int(mode), launch.Int(0), launch.Int(0))
	} else {
		c.Call(unix.SYS_SET_MEMPOLICY, launch.Int(mode), c.Bytes(nodes), launch.Int(maxSet+1)) // one more than it looks at
	}
	return nil
}

// setAffinity binds the process to processors, if any are named.
func (c *compiler) setAffinity(list string) error {
	if list == "" {
		return nil
	}
	set, err := parseSet(list)
	if err != nil {
		return fmt.Errorf("processors: %w", err)
	}
	c.Note("binding the process to the processors %s", list)
	c.Call(unix.SYS_SCHED_SETAFFINITY, launch.Int(0), launch.Int(len(set)), c.Bytes(set))
	return nil
}

// resetAffinity lets the process use every processor its cgroup has: what whoever started
// us was bound to is not the container's business.
func (c *compiler) resetAffinity() {
	all := bytes.Repeat([]byte{0xff}, maxSet/8)
	c.CallIf(ignore(launch.AnyError), unix.SYS_SCHED_SETAFFINITY, launch.Int(0), launch.Int(len(all)), c.Bytes(all))
}

// maxSet is how many processors or memory nodes are known.
const maxSet = 1024

// parseSet reads a list such as "0-3,7" as the bits of the kernel.
func parseSet(list string) ([]byte, error) {
	var words [maxSet / 64]uint64
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 32)
		b, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 32)
		if err1 != nil || err2 != nil || a > b || b >= maxSet {
			return nil, fmt.Errorf("%q of %q: %w", part, list, errdefs.ErrInvalidArgument)
		}
		for n := a; n <= b; n++ {
			words[n/64] |= 1 << (n % 64)
		}
	}
	var set []byte
	for _, w := range words {
		set = binary.NativeEndian.AppendUint64(set, w)
	}
	return set, nil
}
