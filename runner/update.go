package runner

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// UpdateOptions are what a container shall have from now on. Nil changes nothing; of
// Resources only the fields that are set count.
type UpdateOptions struct {
	Resources *specs.LinuxResources
	QuotaSaid bool // as in Options
	Restart   *keeper.RestartPolicy
}

// Update changes the limits and the restart policy of a container, at once if it runs.
func (e *Engine) Update(ctx context.Context, ref string, o UpdateOptions) (warnings []string, err error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	unlock, err := e.lock(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err = e.load(c.ID); err != nil {
		return nil, missing(err, ref)
	}
	if c.State.Status == keeper.Removing || c.State.Status == keeper.Dead {
		return nil, worded(errdefs.ErrConflict, "Cannot update container %s: container is marked for removal and cannot be \"update\"", c.ID)
	}
	if o.Restart != nil {
		if c.Options.AutoRemove && o.Restart.Name != "" && o.Restart.Name != "no" {
			return nil, worded(errdefs.ErrConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		c.Options.Restart = *o.Restart
		if err := c.Options.check(); err != nil {
			return nil, err
		}
	}
	if o.Resources != nil {
		if err := checkResources(o.Resources); err != nil {
			return nil, err
		}
		if err := c.checkQuota(o); err != nil {
			return nil, err
		}
		c.Options.Resources = mergeResources(c.Options.Resources, o.Resources)
		if err := settleSwap(c.Options.Resources.Memory, c.ID); err != nil {
			return nil, err
		}
	}
	if !ended(c.State) {
		if warnings, err = e.updateRunning(ctx, c, o); err != nil {
			return warnings, fmt.Errorf("Cannot update container %s: %w", c.ID, err) //lint:ignore ST1005 docker's words
		}
	}
	err = statefile.Write(e.configFile(c.ID), &c.Config, statefile.WriteOptions{Durable: true})
	if err == nil {
		e.tell(c, "update", nil)
	}
	return warnings, err
}

// checkQuota refuses processors (docker's NanoCPUs) for a container that has a CPU quota or period, and these for one
// that has processors, in moby's words (daemon/container, UpdateContainer). What it lets through is noted.
func (c *Container) checkQuota(o UpdateOptions) error {
	refuse := func(what, has string) error {
		return worded(errdefs.ErrConflict, "Cannot update container %s: Conflicting options: %s cannot be updated as %s has already been set", c.ID, what, has)
	}
	has := &c.Options
	period, quota := cpuQuota(o.Resources)
	hasPeriod, hasQuota := cpuQuota(has.Resources)
	asked := Options{Resources: o.Resources, QuotaSaid: o.QuotaSaid}
	switch processors := asked.SaysProcessors(); {
	case processors && hasPeriod && !has.SaysProcessors():
		return refuse("Nano CPUs", "CPU Period")
	case processors && hasQuota && !has.SaysProcessors():
		return refuse("Nano CPUs", "CPU Quota")
	case !processors && period && has.SaysProcessors():
		return refuse("CPU Period", "NanoCPUs")
	case !processors && quota && has.SaysProcessors():
		return refuse("CPU Quota", "NanoCPUs")
	}
	if period || quota {
		has.QuotaSaid = o.QuotaSaid
	}
	return nil
}

func (e *Engine) updateRunning(ctx context.Context, c *Container, o UpdateOptions) (warnings []string, err error) {
	if o.Resources != nil {
		g, err := e.cgroup(c)
		if err != nil {
			return nil, err
		}
		if warnings, err = g.Update(c.Options.Resources); err != nil {
			return warnings, err
		}
	}
	if o.Restart == nil {
		return warnings, nil
	}
	return warnings, e.ask(ctx, c, func(k *keeper.Client) error { return k.SetRestart(ctx, *o.Restart) })
}

// settleSwap is docker's rule, in docker's words. A first limit of memory has one of swap with it.
func settleSwap(m *specs.LinuxMemory, id string) error {
	if m == nil || value(m.Limit) <= 0 {
		return nil
	}
	if value(m.Swap) == 0 {
		m.Swap = twice(m.Limit)
	}
	if *m.Swap > 0 && *m.Swap < *m.Limit {
		return worded(errdefs.ErrConflict, "Cannot update container %s: Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time", id)
	}
	return nil
}

// mergeResources gives what is set in more the place of what is set in r.
func mergeResources(r, more *specs.LinuxResources) *specs.LinuxResources {
	all := specs.LinuxResources{}
	if r != nil {
		all = *r
	}
	if more.Memory != nil {
		m := specs.LinuxMemory{}
		if all.Memory != nil {
			m = *all.Memory
		}
		replace(&m.Limit, more.Memory.Limit)
		replace(&m.Swap, more.Memory.Swap)
		replace(&m.Reservation, more.Memory.Reservation)
		all.Memory = &m
	}
	if more.CPU != nil {
		cpu := specs.LinuxCPU{}
		if all.CPU != nil {
			cpu = *all.CPU
		}
		replace(&cpu.Shares, more.CPU.Shares)
		replace(&cpu.Quota, more.CPU.Quota)
		replace(&cpu.Period, more.CPU.Period)
		replace(&cpu.RealtimePeriod, more.CPU.RealtimePeriod)
		replace(&cpu.RealtimeRuntime, more.CPU.RealtimeRuntime)
		if more.CPU.Cpus != "" {
			cpu.Cpus = more.CPU.Cpus
		}
		if more.CPU.Mems != "" {
			cpu.Mems = more.CPU.Mems
		}
		all.CPU = &cpu
	}
	if more.Pids != nil {
		all.Pids = more.Pids
	}
	if more.BlockIO != nil {
		io := specs.LinuxBlockIO{}
		if all.BlockIO != nil {
			io = *all.BlockIO
		}
		replace(&io.Weight, more.BlockIO.Weight)
		replaceList(&io.WeightDevice, more.BlockIO.WeightDevice)
		replaceList(&io.ThrottleReadBpsDevice, more.BlockIO.ThrottleReadBpsDevice)
		replaceList(&io.ThrottleWriteBpsDevice, more.BlockIO.ThrottleWriteBpsDevice)
		replaceList(&io.ThrottleReadIOPSDevice, more.BlockIO.ThrottleReadIOPSDevice)
		replaceList(&io.ThrottleWriteIOPSDevice, more.BlockIO.ThrottleWriteIOPSDevice)
		all.BlockIO = &io
	}
	return &all
}

func replace[T any](p **T, v *T) {
	if v != nil {
		*p = v
	}
}

func replaceList[T any](p *[]T, list []T) {
	if len(list) > 0 {
		*p = list
	}
}

// Resize sets the size of a running container's terminal, in characters.
func (e *Engine) Resize(ctx context.Context, ref string, columns, rows uint16) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if err := e.ask(ctx, c, func(k *keeper.Client) error { return k.Resize(ctx, columns, rows) }); err != nil {
		return err
	}
	e.tell(c, "resize", map[string]string{"width": fmt.Sprint(columns), "height": fmt.Sprint(rows)})
	return nil
}
