//go:build !front && !porter

package main

import (
	"github.com/moby/profiles/apparmor"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
)

// newAppArmorCommand is what teu executes when a container needs the profile and it is not loaded.
func newAppArmorCommand(*app) *cobra.Command {
	return &cobra.Command{
		Use:    "apparmor",
		Short:  "Load the AppArmor profile of containers",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE:   func(*cobra.Command, []string) error { return apparmor.InstallDefault(runner.DefaultAppArmor) },
	}
}
