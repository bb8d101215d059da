//go:build !front && !porter

package main

import (
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
)

// newContainerCommand is docker's group of the same commands, and what is only there.
func newContainerCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "container", Short: "Manage containers"}
	ls := newPsCommand(a)
	ls.Use, ls.Aliases = "ls [OPTIONS]", []string{"ps", "list"}
	cmd.AddCommand(
		newRunCommand(a), newCreateCommand(a), newStartCommand(a), newStopCommand(a), newRestartCommand(a),
		newKillCommand(a), newRmCommand(a), ls, newLogsCommand(a), newExecCommand(a), newAttachCommand(a),
		newWaitCommand(a), newTopCommand(a), newPortCommand(a), newPauseCommand(a), newUnpauseCommand(a),
		newRenameCommand(a), newContainerInspectCommand(a), newContainerPruneCommand(a), newContainerFinishCommand(a), newContainerHooksCommand(a),
		newCpCommand(a), newDiffCommand(a), newCommitCommand(a), newExportCommand(a), newUpdateCommand(a), newStatsCommand(a),
	)
	return cmd
}

func newContainerInspectCommand(a *app) *cobra.Command {
	var format string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Show everything about containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspectAll(a, format, args, func(ref string) (any, error) { return a.inspectContainer(cmd.Context(), ref, size) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	cmd.Flags().BoolVarP(&size, "size", "s", false, "also how large its files are")
	return cmd
}

func newContainerPruneCommand(a *app) *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all containers that do not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				if !a.confirm(cmd.Context(), "WARNING! This will remove all stopped containers.\n") {
					return nil
				}
			}
			ids, size, err := a.engine().Prune(cmd.Context(), runner.PruneOptions{Filters: splitFilters(pruneFilters(filters))})
			if err != nil && len(ids) == 0 {
				return err
			}
			printPruned(a, "Deleted Containers:", ids, size)
			return err
		},
	}
	filterVar(cmd.Flags(), &filters, "", "until=TIME, label=, label!=")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func printPruned(a *app, title string, names []string, size int64) {
	if len(names) > 0 {
		a.ui.Println(title)
		for _, n := range names {
			a.ui.Println(n)
		}
		a.ui.Println()
	}
	a.ui.Println("Total reclaimed space: " + units.HumanSize(float64(size)))
}

func newVolumeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Manage volumes"}
	cmd.AddCommand(newVolumeCreateCommand(a), newVolumeLsCommand(a), newVolumeRmCommand(a), newVolumeInspectCommand(a), newVolumePruneCommand(a))
	return cmd
}

func newVolumeRmCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove volumes that no container uses",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(name string) error { return a.engine().RemoveVolume(cmd.Context(), name, force) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing volume is no error")
	return cmd
}

func newVolumePruneCommand(a *app) *cobra.Command {
	var force bool
	var filters []string
	var o runner.PruneVolumesOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove volumes that no container uses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Filters = splitFilters(pruneFilters(filters))
			if all := o.Filters["all"]; o.All && len(all) > 0 {
				return fmt.Errorf("conflicting options: cannot specify both --all and --filter all=%s", strings.Join(all, ","))
			}
			warning := "WARNING! This will remove anonymous local volumes not used by at least one container.\n"
			if o.All {
				warning = "WARNING! This will remove all local volumes not used by at least one container.\n"
			}
			if !force {
				if !a.confirm(cmd.Context(), warning) {
					return nil
				}
			}
			names, size, err := a.engine().PruneVolumes(cmd.Context(), o)
			if err != nil && len(names) == 0 {
				return err
			}
			printPruned(a, "Deleted Volumes:", names, size)
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	filterVar(cmd.Flags(), &filters, "", "label=, label!=, all=true")
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "also those that have a name")
	return cmd
}
