//go:build !front && !porter

package main

import (
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
)

// newImageCommand groups what there is about images, as docker does.
func newImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Manage images"}
	rm := newRmiCommand(a)
	rm.Use, rm.Aliases = "rm [OPTIONS] IMAGE [IMAGE...]", []string{"rmi", "remove"}
	cmd.AddCommand(
		newBuildCommand(a), newHistoryCommand(a), newImportCommand(a), newImageInspectCommand(a), newLoadCommand(a), newImageLsCommand(a),
		newImagePruneCommand(a), newPullCommand(a), newPushCommand(a), rm, newSaveCommand(a), newTagCommand(a),
	)
	return cmd
}

func newImageInspectCommand(a *app) *cobra.Command {
	var format, platform string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short: "Show everything about images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := onePlatform(platform)
			if err != nil {
				return err
			}
			o := library.InspectOptions{Platform: p}
			return inspectAll(a, format, args, func(ref string) (any, error) { return a.inspectImage(cmd.Context(), ref, o) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	cmd.Flags().StringVar(&platform, "platform", "", "platform of the image, such as linux/arm64 (default the host's)")
	return cmd
}
