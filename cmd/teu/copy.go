//go:build !front

package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/registry/transfer"
)

// copyFlags are the flags of copy.
type copyFlags struct {
	all, quiet bool
	platform   string
	progress   ui.TransferMode
}

func newCopyCommand(a *app) *cobra.Command {
	f := copyFlags{progress: "auto"}
	cmd := &cobra.Command{
		Use:   "copy [OPTIONS] SOURCE DESTINATION",
		Short: "Copy an image between registries, directories and archives",
		Long: `Copy an image between registries, directories and archives, without the store.

A place is one of
  [docker://]NAME[:TAG|@DIGEST]   an image of a registry
  oci:DIR[:TAG]                   an image of a directory in the OCI layout
  oci-archive:FILE[:TAG]          the same as a tar file
  docker-archive:FILE[:NAME]      what docker save writes

The digest of what is copied is printed. It is the same at both places.`,
		Example: `  teu copy debian:13 registry.example/base/debian:13
  teu copy --all registry.example/app:1 oci:app:1
  teu copy --platform linux/arm64 docker-archive:app.tar registry.example/app`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return copyImage(cmd.Context(), a, f, args[0], args[1]) },
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all", "a", false, "all platforms, and what refers to the image: signatures, SBOMs, provenance")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print only the digest")
	s.Var(&f.progress, "progress", "auto, tty, plain, json or quiet")
	s.StringVar(&f.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "platform of the image, such as linux/arm64 (default the host's)")
	return cmd
}

func copyImage(ctx context.Context, a *app, f copyFlags, from, to string) error {
	platform, err := onePlatform(f.platform)
	if err != nil {
		return err
	}
	src, err := transfer.Parse(from)
	if err != nil {
		return err
	}
	dst, err := transfer.Parse(to)
	if err != nil {
		return err
	}
	progress := a.ui.Transfer(ui.CopyWords(), f.progress.Quiet(f.quiet))
	done, err := transfer.Copy(ctx, a.registry(), dst, src, transfer.Options{All: f.all, Platform: platform, Progress: progress.Event})
	progress.Close()
	if err != nil {
		return err
	}
	a.ui.Println(done.Digest)
	return nil
}
