package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner"
)

func (c *containerFlags) addHealth(f *pflag.FlagSet) {
	f.StringVar(&c.healthCmd, "health-cmd", "", "command that says whether the container is well")
	f.StringVar(&c.healthHTTP, "health-http", "", "instead of a command: URL that must answer with 2xx or 3xx, from inside")
	f.StringVar(&c.healthTCP, "health-tcp", "", "instead of a command: [HOST:]PORT that must take a connection, from inside")
	f.StringVar(&c.healthUnix, "health-unix", "", "instead of a command: socket in the container that must take a connection")
	f.DurationVar(&c.health.Interval, "health-interval", 0, "time between checks (default 30s)")
	f.DurationVar(&c.health.Timeout, "health-timeout", 0, "longest time of a check (default 30s)")
	f.DurationVar(&c.health.StartPeriod, "health-start-period", 0, "time to get ready, in which failures do not count")
	f.DurationVar(&c.health.StartInterval, "health-start-interval", 0, "time between checks while it gets ready (default 5s)")
	f.IntVar(&c.health.Retries, "health-retries", 0, "failures in a row that make it unhealthy (default 3)")
	f.StringVar(&c.healthOnFailure, "health-on-failure", "none", "what happens when it gets unhealthy: none, restart, stop or kill")
	f.BoolVar(&c.noHealthcheck, "no-healthcheck", false, "do not do what the image's HEALTHCHECK says")
}

func (c *containerFlags) setHealth(o *runner.Options) error {
	h := c.health
	for _, t := range []struct {
		kind, value string
	}{{"CMD-SHELL", c.healthCmd}, {"HTTP", c.healthHTTP}, {"TCP", c.healthTCP}, {"UNIX", c.healthUnix}} {
		if t.value == "" {
			continue
		}
		if len(h.Test) > 0 {
			return errors.New("only one of --health-cmd, --health-http, --health-tcp and --health-unix can be given")
		}
		h.Test = []string{t.kind, t.value}
	}
	if !slices.Contains([]string{"none", "restart", "stop", "kill"}, c.healthOnFailure) {
		return fmt.Errorf("--health-on-failure is none, restart, stop or kill, not %q", c.healthOnFailure)
	}
	if c.healthOnFailure != "none" {
		h.OnFailure = c.healthOnFailure
	}
	given := len(h.Test) > 0 || h.Interval != 0 || h.Timeout != 0 || h.StartPeriod != 0 || h.StartInterval != 0 || h.Retries != 0 || h.OnFailure != ""
	for _, d := range []struct {
		name string
		bad  bool
	}{{"--health-interval", h.Interval < 0}, {"--health-timeout", h.Timeout < 0}, {"--health-start-period", h.StartPeriod < 0},
		{"--health-start-interval", h.StartInterval < 0}, {"--health-retries", h.Retries < 0}} {
		if d.bad {
			return fmt.Errorf("%s cannot be negative", d.name)
		}
	}
	if c.noHealthcheck {
		if given {
			return errors.New("--no-healthcheck conflicts with --health-* options")
		}
		h.Test, given = []string{"NONE"}, true
	}
	if given {
		o.Health = &h
	}
	return nil
}
