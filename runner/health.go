package runner

import (
	"encoding/json"
	"time"
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

// imageHealth finds the HEALTHCHECK in the config of an image, which OCI does not know.
func imageHealth(config []byte) *HealthCheck {
	var raw struct {
		Config struct{ Healthcheck *HealthCheck } `json:"config"`
	}
	if json.Unmarshal(config, &raw) != nil || raw.Config.Healthcheck == nil || len(raw.Config.Healthcheck.Test) == 0 {
		return nil
	}
	return raw.Config.Healthcheck
}
