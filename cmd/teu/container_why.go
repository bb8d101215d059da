package main

import (
	"context"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/userns"
)

func newWhyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "why CONTAINER",
		Short: "Explain what a container does or how it ended",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lines, err := a.engine().Why(cmd.Context(), args[0])
			for _, l := range lines {
				a.ui.Println(l)
			}
			return err
		},
	}
}

func newSystemBootCommand(a *app) *cobra.Command {
	var unit bool
	cmd := &cobra.Command{
		Use:   "boot",
		Short: "Start what restart policies want to run after the machine went down",
		Example: `  teu system boot
  teu system boot --unit >/etc/systemd/system/teu.service && systemctl enable teu`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unit {
				a.ui.Printf("%s", runner.Unit(a.engine().Exe, userns.Inside()))
				return nil
			}
			return eachTold(cmd.Context(), a, a.engine().Boot)
		},
	}
	cmd.Flags().BoolVar(&unit, "unit", false, "print a systemd unit that does this, for the system or for a user, and do nothing else")
	return cmd
}

func newSystemDownCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Stop all containers because the machine goes down",
		Long:    "Stop all containers because the machine goes down. `teu system boot` starts again what restart policies want to run. The unit of `teu system boot --unit` does both.",
		Example: `  teu system down`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return eachTold(cmd.Context(), a, a.engine().Shutdown) },
	}
}

// eachTold does something to containers, and prints the name or the error of each.
func eachTold(ctx context.Context, a *app, do func(context.Context, func(*runner.Container, error)) error) error {
	failed := false
	err := do(ctx, func(c *runner.Container, err error) {
		if err != nil {
			a.ui.Error(err)
			failed = true
			return
		}
		a.ui.Println(c.Name)
	})
	if err == nil && failed {
		return &exitError{code: exitFailure}
	}
	return err
}
