package cgroup

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// furtherSettings are those that few ask for: real-time processor time, weights of block
// devices, huge pages, network classes and RDMA.
func (h *Host) furtherSettings(r *specs.LinuxResources) []setting {
	var c collector
	v1 := h.mode == V1
	if p := r.CPU; p != nil {
		// v2 has no files for it: it is left to sched_setattr(2), so this warns there.
		if p.RealtimePeriod != nil && *p.RealtimePeriod != 0 {
			c.add("cpu", "cpu.rt_period_us", "real-time processor time", *p.RealtimePeriod)
		}
		if p.RealtimeRuntime != nil && *p.RealtimeRuntime != 0 {
			c.add("cpu", "cpu.rt_runtime_us", "real-time processor time", *p.RealtimeRuntime)
		}
	}
	c.weights(r.BlockIO, v1)
	for _, l := range r.HugepageLimits {
		// Reservations first: a page may be reserved before it is charged.
		for _, kind := range []string{"rsvd.", ""} {
			file := "hugetlb." + l.Pagesize + "." + kind
			if v1 {
				file += "limit_in_bytes"
			} else {
				file += "max"
			}
			c.add("hugetlb", file, "huge pages", l.Limit)
		}
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			c.add("net_cls", "net_cls.classid", "network classes", *n.ClassID)
		}
		for _, p := range n.Priorities {
			c.add("net_prio", "net_prio.ifpriomap", "network priorities", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	for device, l := range r.Rdma {
		value := device
		if l.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		c.add("rdma", "rdma.max", "RDMA", value)
	}
	return c
}

// weights are shares of block devices, where the scheduler BFQ counts them or the kernel.
func (c *collector) weights(b *specs.LinuxBlockIO, v1 bool) {
	if b == nil {
		return
	}
	// Of BFQ 1..1000 in both versions, of the kernel's own in v2 1..10000, as runc converts it.
	add := func(device string, w uint16) {
		s := setting{controller: "blkio", file: "io.bfq.weight", instead: "io.weight", limit: "shares of block devices",
			value: device + fmt.Sprint(w), insteadValue: device + fmt.Sprint(1+(uint64(max(w, 10))-10)*9999/990)}
		if v1 {
			s.file, s.instead, s.insteadValue = "blkio.weight", "blkio.bfq.weight", s.value
			if device != "" {
				s.file, s.instead = "blkio.weight_device", "blkio.bfq.weight_device"
			}
		}
		*c = append(*c, s)
	}
	if b.Weight != nil && *b.Weight != 0 {
		add("", *b.Weight)
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		c.add("blkio", "blkio.leaf_weight", "shares of block devices", *b.LeafWeight)
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			add(fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight)
		}
		if d.LeafWeight != nil {
			c.add("blkio", "blkio.leaf_weight_device", "shares of block devices", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight))
		}
	}
}
