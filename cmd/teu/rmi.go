//go:build !front

package main

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
)

func newRmiCommand(a *app) *cobra.Command {
	var o library.RemoveOptions
	var platforms []string
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Platforms, err = manyPlatforms(platforms); err != nil {
				return err
			}
			return removeImages(cmd.Context(), a, o, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "although containers or other names use the image")
	f.StringSliceVar(&platforms, "platform", nil, "remove only the image for this platform, such as linux/arm64")
	f.Bool("no-prune", false, "accepted for docker's sake")
	hide(f, "no-prune")
	return cmd
}

func removeImages(ctx context.Context, a *app, o library.RemoveOptions, refs []string) error {
	lib, err := a.library()
	if err != nil {
		return err
	}
	var failures []error
	fatal := false
	for _, ref := range refs {
		removed, err := lib.Remove(ctx, ref, o)
		for _, r := range removed {
			if r.Deleted != "" {
				a.ui.Println("Deleted:", r.Deleted)
			} else {
				a.ui.Println("Untagged:", r.Untagged)
			}
		}
		if err != nil {
			fatal = fatal || !errdefs.IsNotFound(err)
			failures = append(failures, err)
		}
	}
	err = errors.Join(failures...)
	if err != nil && o.Force && !fatal {
		a.ui.Error(err) // with --force a missing image is what was wanted
		return nil
	}
	return err
}

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
	s.StringArrayVar(&f.filters, "filter", nil, "label=, label!=, until=, reference=")
	return cmd
}

func pruneImages(ctx context.Context, a *app, f pruneImagesFlags) error {
	filters, err := listing.ParseFilters(f.filters)
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
