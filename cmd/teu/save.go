//go:build !front

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/cache/outfile"
)

func newSaveCommand(a *app) *cobra.Command {
	var output string
	var platforms []string
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Write images into a tar archive",
		Long:  "Write images into a tar archive, to standard output by default. Docker, podman and skopeo read it.",
		Example: `  teu save -o app.tar registry.example/app:1
  teu save app | ssh host teu load`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := manyPlatforms(platforms)
			if err != nil {
				return err
			}
			return save(cmd.Context(), a, output, args, library.SaveOptions{Platforms: p})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, instead of standard output")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, "save only the images for these platforms")
	return cmd
}

func save(ctx context.Context, a *app, output string, refs []string, o library.SaveOptions) error {
	lib, err := a.library()
	if err != nil {
		return err
	}
	if output == "" || output == "-" {
		if a.ui.OutTerminal() {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		w := bufio.NewWriterSize(a.ui.Out, 1<<20)
		if err := lib.Save(ctx, w, refs, o); err != nil {
			return err
		}
		return w.Flush()
	}
	if err := checkArchive(output); err != nil {
		return fmt.Errorf("failed to save image: %w", err)
	}
	return outfile.Write(output, 0o600, func(w io.Writer) error { return lib.Save(ctx, w, refs, o) })
}

func newLoadCommand(a *app) *cobra.Command {
	var input string
	var quiet bool
	var platforms []string
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Read images from a tar archive",
		Long:  "Read images from a tar archive of docker, podman, skopeo or teu, or of an OCI image layout; plain or compressed by gzip, zstd, bzip2 or xz.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := manyPlatforms(platforms)
			if err != nil {
				return err
			}
			return load(cmd.Context(), a, input, library.LoadOptions{Platforms: p})
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "file to read, instead of standard input")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing but the names")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, "load only the images for these platforms")
	return cmd
}

func load(ctx context.Context, a *app, input string, o library.LoadOptions) error {
	in := a.ui.In
	if input != "" && input != "-" {
		f, err := os.Open(input)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	} else if a.ui.InTerminal() {
		return errors.New("requested load from stdin, but stdin is empty")
	}
	lib, err := a.library()
	if err != nil {
		return err
	}
	loaded, err := lib.Load(ctx, in, o)
	if err != nil {
		return err
	}
	a.holdBudget(ctx)
	for _, img := range loaded {
		if len(img.Names) == 0 {
			a.ui.Println("Loaded image ID:", img.ID)
		}
		for _, name := range img.Names {
			a.ui.Println("Loaded image:", listing.Familiar(name))
		}
	}
	return nil
}
