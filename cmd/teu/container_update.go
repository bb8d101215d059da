package main

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner"
)

func newUpdateCommand(a *app) *cobra.Command {
	var c containerFlags
	cmd := &cobra.Command{
		Use:     "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short:   "Change limits and restart policy of containers",
		Example: "  teu update --memory 512m --memory-swap 1g --cpus 2 web\n  teu update --restart always web",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.update(cmd.Flags())
			if err != nil {
				return err
			}
			return forEach(a, args, func(ref string) error {
				warnings, err := a.engine().Update(cmd.Context(), ref, o)
				for _, w := range warnings {
					a.ui.Warnf("%s", w)
				}
				return err
			})
		},
	}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.add(all)
	for _, name := range []string{"blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares",
		"cpus", "cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap", "pids-limit", "restart"} {
		cmd.Flags().AddFlag(all.Lookup(name))
	}
	return cmd
}

// update turns the flags that were given into what shall change.
func (c *containerFlags) update(f *pflag.FlagSet) (u runner.UpdateOptions, err error) {
	given := 0
	f.Visit(func(*pflag.Flag) { given++ })
	if given == 0 {
		return u, errors.New("you must provide one or more flags when using this command")
	}
	var o runner.Options
	if err := c.setLimits(&o); err != nil {
		return u, err
	}
	if m := o.Resources.Memory; m != nil && !f.Changed("memory-swap") {
		m.Swap = nil // what it was stays
	}
	if f.Changed("pids-limit") {
		o.Resources.Pids = &specs.LinuxPids{Limit: &c.pidsLimit}
	}
	u.Resources, u.QuotaSaid = o.Resources, o.QuotaSaid
	if f.Changed("restart") {
		if err := c.setRestart(&o); err != nil {
			return u, err
		}
		u.Restart = &o.Restart
	}
	return u, nil
}
