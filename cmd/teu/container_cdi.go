//go:build !front && !porter

package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/cdi"
)

// injectCDI gives o what its devices with CDI names need.
func (a *app) injectCDI(o *runner.Options) error {
	if len(o.CDIDevices) == 0 {
		return nil
	}
	known, err := cdi.Load(a.cdiDirs())
	if err != nil {
		return err
	}
	e, err := known.Edits(o.CDIDevices)
	if err != nil {
		return err
	}
	o.Env = append(slices.Clip(o.Env), e.Env...)
	o.Devices = append(slices.Clip(o.Devices), e.Devices...)
	o.Groups = append(slices.Clip(o.Groups), e.Groups...)
	o.Hooks = e.Hooks
	for _, m := range e.Mounts {
		o.Mounts = append(o.Mounts, runner.MountRequest{
			Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			Propagation: m.Propagation, NoRecursive: m.NoRecursive, Options: m.Options, Long: true,
		})
	}
	return nil
}

// listCDI tells where devices with CDI names are looked up, and their names.
func (a *app) listCDI() (dirs, names []string) {
	dirs = a.cdiDirs()
	known, err := cdi.Load(dirs)
	if err != nil {
		return dirs, nil
	}
	for _, d := range known.Devices() {
		names = append(names, d.Name)
	}
	return dirs, names
}

func (a *app) cdiDirs() []string {
	if a.config.CDISpecDirs != nil {
		return a.config.CDISpecDirs
	}
	return cdi.DefaultDirs()
}

// newContainerHooksCommand is what keepers execute while a container that is being started waits.
func newContainerHooksCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "hooks ID PHASE PROCESS",
		Short:  "Run the hooks of a container that is being started",
		Hidden: true,
		Args:   cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().RunHooks(cmd.Context(), args[0], args[1], args[2])
		},
	}
}
