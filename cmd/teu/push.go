//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// pushFlags are the flags of push.
type pushFlags struct {
	all, quiet bool
	platform   string
	progress   ui.TransferMode
}

func newPushCommand(a *app) *cobra.Command {
	f := pushFlags{progress: "auto"}
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return push(cmd.Context(), a, f, args[0]) },
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all-tags", "a", false, "all tags of the repository that are here")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print only the name")
	s.Var(&f.progress, "progress", "auto, tty, plain, json or quiet")
	s.StringVar(&f.platform, "platform", "", "push only the image of this platform")
	return cmd
}

func push(ctx context.Context, a *app, f pushFlags, name string) error {
	ref, err := parseName(name)
	if err != nil {
		return err
	}
	if _, digested := ref.(reference.Digested); digested {
		return errors.New("cannot push a digest reference")
	}
	refs := []reference.Named{ref}
	if f.all {
		if refs, err = localTags(ctx, a, ref); err != nil {
			return err
		}
	} else {
		refs[0] = a.completeTag(ref, f.quiet)
	}
	if !f.quiet {
		a.ui.Printf("The push refers to repository [%s]\n", ref.Name())
	}
	for _, r := range refs {
		if err := pushOne(ctx, a, f, r.(reference.NamedTagged)); err != nil {
			return err
		}
	}
	if f.quiet {
		a.ui.Println(refs[0].String())
	}
	return nil
}

// localTags lists the tags of a repository that are here.
func localTags(ctx context.Context, a *app, ref reference.Named) ([]reference.Named, error) {
	if !reference.IsNameOnly(ref) {
		return nil, errors.New("tag can't be used with --all-tags/-a")
	}
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	all, err := store.Images.All(ctx)
	if err != nil {
		return nil, err
	}
	var refs []reference.Named
	for _, img := range all {
		r, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil || r.Name() != ref.Name() {
			continue
		}
		if _, tagged := r.(reference.NamedTagged); tagged && !slices.Contains(refs, r) {
			refs = append(refs, r)
		}
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("an image does not exist locally with the tag: %s", reference.FamiliarName(ref))
	}
	return refs, nil
}

func pushOne(ctx context.Context, a *app, f pushFlags, ref reference.NamedTagged) error {
	images, err := a.library()
	if err != nil {
		return err
	}
	platform, err := onePlatform(f.platform)
	if err != nil {
		return err
	}
	progress := a.ui.Transfer(ui.PushWords(), f.progress.Quiet(f.quiet))
	done, err := images.Push(ctx, ref, library.PushOptions{Platform: platform, Progress: progress.Event})
	progress.Close()
	if err != nil {
		return err
	}
	if done.Index != nil {
		a.ui.Notef("Not all multiplatform-content is present and only the available single-platform image was pushed\n%s -> %s",
			done.Index.Digest, done.Target.Digest)
	}
	if !f.quiet {
		a.ui.Printf("%s: digest: %s size: %d\n", ref.Tag(), done.Target.Digest, done.Target.Size)
	}
	return nil
}
