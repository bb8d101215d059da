//go:build !front

package main

import (
	"context"
	"errors"
	"os"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// pullFlags are the flags of pull.
type pullFlags struct {
	all, quiet bool
	platform   string
	progress   ui.TransferMode
}

func newPullCommand(a *app) *cobra.Command {
	f := pullFlags{progress: "auto"}
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Example: `  teu pull debian:13
  teu pull --platform linux/arm64 registry.example/app@sha256:...`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return pull(cmd.Context(), a, f, args[0]) },
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all-tags", "a", false, "all tags of the repository")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print only the name")
	s.Var(&f.progress, "progress", "auto, tty, plain, json or quiet")
	s.StringVar(&f.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "platform of the image, such as linux/arm64 (default the host's)")
	return cmd
}

func pull(ctx context.Context, a *app, f pullFlags, name string) error {
	ref, err := parseName(name)
	if err != nil {
		return err
	}
	if f.all {
		return pullAll(ctx, a, f, ref)
	}
	ref = a.completeTag(ref, f.quiet)
	if err := pullOne(ctx, a, f, ref); err != nil {
		return err
	}
	a.ui.Println(ref.String())
	return nil
}

func pullAll(ctx context.Context, a *app, f pullFlags, ref reference.Named) error {
	if !reference.IsNameOnly(ref) {
		return errors.New("tag can't be used with --all-tags/-a")
	}
	repo, err := a.registry().Repository(ref)
	if err != nil {
		return err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		tagged, err := reference.WithTag(ref, tag)
		if err != nil {
			return err
		}
		if err := pullOne(ctx, a, f, tagged); err != nil {
			return err
		}
	}
	a.ui.Println(ref.String())
	return nil
}

// pullOne pulls the image of ref, which has a tag or a digest.
func pullOne(ctx context.Context, a *app, f pullFlags, ref reference.Named) error {
	images, err := a.library()
	if err != nil {
		return err
	}
	platform, err := onePlatform(f.platform)
	if err != nil {
		return err
	}
	if !f.quiet {
		a.ui.Printf("%s: Pulling from %s\n", tagOf(ref), reference.Path(ref))
	}
	progress := a.ui.Transfer(ui.PullWords(), f.progress.Quiet(f.quiet))
	done, err := images.Pull(ctx, ref, library.PullOptions{Platform: platform, Progress: progress.Event})
	progress.Close()
	if err == nil {
		a.holdBudget(ctx)
	}
	if err != nil || f.quiet {
		return err
	}
	if rate, ok := images.Registry.RateLimit(reference.Domain(ref)); ok {
		a.ui.Notef("%s: %s", reference.Domain(ref), rate)
	}
	a.ui.Printf("Digest: %s\n", done.Target.Digest)
	status := "Image is up to date for "
	if done.New {
		status = "Downloaded newer image for "
	}
	a.ui.Println("Status: " + status + reference.FamiliarString(ref))
	return nil
}

// tagOf is what docker says of ref when it pulls: the tag, or the whole reference if that has a digest.
func tagOf(ref reference.Named) string {
	switch r := ref.(type) {
	case reference.Digested:
		return ref.String()
	case reference.Tagged:
		return r.Tag()
	}
	return "latest"
}
