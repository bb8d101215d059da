//go:build !front && !porter

package main

import (
	"context"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
)

// pruneImagesFlags are the flags of image prune.
type pruneImagesFlags struct {
	all, force bool
	filters    []string
}

func newImagePruneCommand(a *app) *cobra.Command {
	var f pruneImagesFlags
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove images that no container uses and that have no name",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return pruneImages(cmd.Context(), a, f) },
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all", "a", false, "also those that have a name")
	s.BoolVarP(&f.force, "force", "f", false, "do not ask")
	filterVar(s, &f.filters, "", "label=, label!=, until=, reference=")
	return cmd
}

func pruneImages(ctx context.Context, a *app, f pruneImagesFlags) error {
	filters, err := listing.ParseFilters(pruneFilters(f.filters))
	if err != nil {
		return err
	}
	lib, err := a.library()
	if err != nil {
		return err
	}
	if !f.force {
		warning := "WARNING! This will remove all dangling images.\n"
		if f.all {
			warning = "WARNING! This will remove all images without at least one container associated to them.\n"
		}
		if !a.confirm(ctx, warning) {
			return nil
		}
	}
	removed, freed, err := lib.Prune(ctx, library.PruneOptions{All: f.all, Filters: filters})
	a.list("Deleted Images:", removals(removed))
	if err != nil {
		return err
	}
	a.engine().TellPruned("image", freed)
	a.ui.Println("Total reclaimed space:", units.HumanSize(float64(freed)))
	return nil
}

// removals returns docker's lines for what a prune removed.
func removals(list []library.Removal) []string {
	var lines []string
	for _, r := range list {
		if r.Deleted != "" {
			lines = append(lines, "deleted: "+r.Deleted)
		} else {
			lines = append(lines, "untagged: "+r.Untagged)
		}
	}
	return lines
}
