//go:build !front

package main

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
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
