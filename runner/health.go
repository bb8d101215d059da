package runner

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/spec"
)

// health is the health check of a container: what its user said over what the image says.
// It is nil if there is none.
func (c *Container) health() *HealthCheck {
	h := HealthCheck{}
	if c.ImageHealth != nil {
		h = *c.ImageHealth
	}
	if o := c.Options.Health; o != nil {
		if len(o.Test) > 0 {
			h.Test = o.Test
		}
		for _, d := range []struct{ to, from *time.Duration }{
			{&h.Interval, &o.Interval}, {&h.Timeout, &o.Timeout}, {&h.StartPeriod, &o.StartPeriod}, {&h.StartInterval, &o.StartInterval},
		} {
			if *d.from != 0 {
				*d.to = *d.from
			}
		}
		if o.Retries != 0 {
			h.Retries = o.Retries
		}
		h.OnFailure = o.OnFailure
	}
	if len(h.Test) == 0 && c.Options.Health == nil {
		return nil
	}
	return &h
}

// imageHealth finds HEALTHCHECK and SHELL in the config of an image, which OCI does not know.
func imageHealth(config []byte) (*HealthCheck, []string) {
	var raw struct {
		Config struct {
			Healthcheck *HealthCheck
			Shell       []string
		} `json:"config"`
	}
	if json.Unmarshal(config, &raw) != nil {
		return nil, nil
	}
	h := raw.Config.Healthcheck
	if h != nil && len(h.Test) == 0 {
		h = nil
	}
	return h, raw.Config.Shell
}

// Docker's defaults (moby daemon/health.go).
const (
	defaultHealthInterval = 30 * time.Second
	defaultHealthTimeout  = 30 * time.Second
	defaultStartInterval  = 5 * time.Second
	defaultHealthRetries  = 3
)

// healthCheck is what the keeper must know of a container's health check: nil if there is
// none, or one of a kind that nobody knows, as in docker. A command is compiled here, like any other.
func (e *Engine) healthCheck(c *Container, p *plan) (*keeper.HealthCheck, *launch.Program, error) {
	h := c.health()
	if h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil, nil, nil
	}
	stop, err := ParseSignal(c.stopSignal())
	if err != nil {
		return nil, nil, err
	}
	k := &keeper.HealthCheck{
		Interval: cmp.Or(h.Interval, defaultHealthInterval), Timeout: cmp.Or(h.Timeout, defaultHealthTimeout),
		Period: h.StartPeriod, StartInterval: cmp.Or(h.StartInterval, defaultStartInterval),
		Retries: cmp.Or(h.Retries, defaultHealthRetries), StopSignal: int(stop), StopTimeout: c.stopTimeout(),
	}
	if h.OnFailure != "none" {
		k.OnFailure = h.OnFailure
	}
	var args []string
	switch kind := h.Test[0]; {
	case kind == "CMD" && len(h.Test) > 1:
		args = h.Test[1:]
	case kind == "CMD-SHELL" && len(h.Test) > 1:
		args = append(c.shell(), h.Test[1:]...)
	case slices.Contains([]string{"HTTP", "TCP", "UNIX"}, kind) && len(h.Test) == 2:
		k.Probe, k.Target = kind, h.Test[1]
		return k, nil, nil
	default:
		return nil, nil, nil
	}
	sn, err := e.snapshot(c.ID)
	if err != nil {
		return nil, nil, err
	}
	root, err := view(sn)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	process, err := spec.NewExec(p.spec, spec.ExecOptions{Args: args, Files: root})
	if err != nil {
		return nil, nil, err
	}
	program, err := oci.CompileExec(p.spec, process, oci.ExecOptions{CgroupProcs: p.group.Joins(), CgroupDir: p.group.V2Dir()})
	k.Probe = "COMMAND"
	return k, program, err
}

// givenShell is what the container was made with, or the image's SHELL; nil if there is neither.
func (c *Container) givenShell() []string {
	if len(c.Options.Shell) > 0 {
		return c.Options.Shell
	}
	return c.ImageShell
}

// shell is the one that was given, or sh.
func (c *Container) shell() []string {
	if given := c.givenShell(); len(given) > 0 {
		return slices.Clone(given)
	}
	return []string{"/bin/sh", "-c"}
}

// stopTimeout is how long the container has from its stop signal to SIGKILL.
func (c *Container) stopTimeout() time.Duration {
	if s := c.Options.StopTimeout; s != nil {
		return time.Duration(*s) * time.Second
	}
	return defaultStopTimeout
}
