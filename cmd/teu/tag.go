//go:build !front

package main

import "github.com/spf13/cobra"

func newTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Give an image another name",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := a.library()
			if err != nil {
				return err
			}
			return lib.Tag(cmd.Context(), args[0], args[1])
		},
	}
}
