//go:build !front

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry/manifestlist"
)

// newManifestCommand groups what there is about lists of manifests, as docker does.
func newManifestCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Make one name for images of several platforms",
		Long: `Make one name for images of several platforms, which a registry has already.

A list is kept here until it is pushed.`,
		Example: `  teu manifest create registry.example/app:1 registry.example/app:1-amd64 registry.example/app:1-arm64
  teu manifest push --purge registry.example/app:1`,
	}
	cmd.AddCommand(newManifestCreateCommand(a), newManifestAnnotateCommand(a), newManifestInspectCommand(a), newManifestPushCommand(a), newManifestRmCommand(a))
	return cmd
}

// lists are the drafts of this store. An insecure registry is one for this command only.
func (a *app) lists(insecure *bool, names ...string) *manifestlist.Lists {
	if *insecure {
		for _, name := range names {
			if ref, err := reference.ParseNormalizedNamed(name); err == nil {
				a.config.InsecureRegistries = append(a.config.InsecureRegistries, reference.Domain(ref))
			}
		}
	}
	return &manifestlist.Lists{Dir: filepath.Join(a.root, "manifests"), Registry: a.registry()}
}

func insecureFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("insecure", false, "the registry may be without TLS, or with a certificate nobody knows")
}

func newManifestCreateCommand(a *app) *cobra.Command {
	var o manifestlist.CreateOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
		Short: "Begin a list of images that a registry has",
		Args:  cobra.MinimumNArgs(2),
	}
	insecure := insecureFlag(cmd)
	cmd.Flags().BoolVarP(&o.Amend, "amend", "a", false, "add to a list that is there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := a.lists(insecure, args...).Create(cmd.Context(), args[0], args[1:], o)
		if err == nil {
			a.ui.Println("Created manifest list", name)
		}
		return err
	}
	return cmd
}

func newManifestAnnotateCommand(a *app) *cobra.Command {
	var o manifestlist.Annotation
	cmd := &cobra.Command{
		Use:     "annotate [OPTIONS] MANIFEST_LIST MANIFEST",
		Short:   "Change what a list tells of an image",
		Example: "  teu manifest annotate --arch arm --variant v7 registry.example/app:1 registry.example/app:1-armv7",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lists(new(bool)).Annotate(cmd.Context(), args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.OS, "os", "", "operating system")
	f.StringVar(&o.Architecture, "arch", "", "architecture")
	f.StringVar(&o.OSVersion, "os-version", "", "version of the operating system")
	f.StringSliceVar(&o.OSFeatures, "os-features", nil, "features of the operating system")
	f.StringVar(&o.Variant, "variant", "", "variant of the architecture")
	return cmd
}

func newManifestInspectCommand(a *app) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST",
		Short: "Show a list, or what a registry has under a name",
		Args:  cobra.RangeArgs(1, 2),
	}
	insecure := insecureFlag(cmd)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "with the platforms of all images")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return inspectManifest(cmd.Context(), a, a.lists(insecure, args...), args, verbose)
	}
	return cmd
}

func inspectManifest(ctx context.Context, a *app, lists *manifestlist.Lists, args []string, verbose bool) error {
	if len(args) == 2 {
		return inspectEntry(ctx, a, lists, args[0], args[1], verbose)
	}
	if draft, err := lists.Get(args[0]); err == nil {
		data, _, err := draft.Index()
		if err != nil || !verbose {
			return printIndented(a, data, err)
		}
		return inspectDraft(ctx, a, lists, draft)
	} else if !isNotFound(err) {
		return err
	}
	if !verbose {
		data, err := lists.Raw(ctx, args[0])
		return printIndented(a, data, err)
	}
	all, err := lists.Remote(ctx, args[0])
	if err != nil {
		return err
	}
	return printManifests(a, all)
}

// inspectDraft shows the images of a list in full.
func inspectDraft(ctx context.Context, a *app, lists *manifestlist.Lists, draft manifestlist.Draft) error {
	var all []manifestlist.Manifest
	for _, e := range draft.Entries {
		m, err := lists.Remote(ctx, e.Ref)
		if err != nil {
			return err
		}
		m[0].Descriptor.Platform = e.Descriptor.Platform
		all = append(all, m...)
	}
	return printManifests(a, all)
}

// inspectEntry shows one image of a list.
func inspectEntry(ctx context.Context, a *app, lists *manifestlist.Lists, list, image string, verbose bool) error {
	draft, err := lists.Get(list)
	if err != nil {
		return err
	}
	entry, err := draft.Entry(image)
	if err != nil {
		return err
	}
	all, err := lists.Remote(ctx, entry.Ref)
	if err != nil {
		return err
	}
	if !verbose {
		return printIndented(a, all[0].Raw, nil)
	}
	all[0].Descriptor.Platform = entry.Descriptor.Platform
	return printManifests(a, all)
}

// printManifests prints one as an object and several as a list, as docker does.
func printManifests(a *app, all []manifestlist.Manifest) error {
	var v any = all
	if len(all) == 1 {
		v = all[0]
	}
	data, err := json.Marshal(v)
	return printIndented(a, data, err)
}

func printIndented(a *app, data []byte, err error) error {
	if err != nil {
		return err
	}
	text, err := indented(data)
	if err != nil {
		return err
	}
	a.ui.Println(text)
	return nil
}

// indented returns a document with a line for each value. Each gets as many tabs as it is deep, so a document of a
// million values ten thousand deep, which has room in a manifest, would take ten gigabytes.
func indented(data []byte) (string, error) {
	const deepest = 100
	if _, depth := content.Measure(data); depth > deepest {
		return "", fmt.Errorf("the document is more than %d deep: %w", deepest, errdefs.ErrResourceExhausted)
	}
	var b bytes.Buffer
	err := json.Indent(&b, data, "", "\t")
	return b.String(), err
}

func newManifestPushCommand(a *app) *cobra.Command {
	var o manifestlist.PushOptions
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] MANIFEST_LIST",
		Short: "Send a list to its registry",
		Args:  cobra.ExactArgs(1),
	}
	insecure := insecureFlag(cmd)
	cmd.Flags().BoolVarP(&o.Purge, "purge", "p", false, "forget the list afterwards")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Pushed = func(ref reference.Named, d digest.Digest) { a.ui.Println("Pushed ref", ref, "with digest:", d) }
		d, err := a.lists(insecure, args...).Push(cmd.Context(), args[0], o)
		if err == nil {
			a.ui.Println(d)
		}
		return err
	}
	return cmd
}

func newManifestRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm MANIFEST_LIST [MANIFEST_LIST...]",
		Short: "Forget lists that are kept here",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.lists(new(bool)).Remove(args...) },
	}
}
