//go:build !front && !porter

package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/server/registry"
)

func newRegistryCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Look after a registry",
	}
	cmd.AddCommand(newRegistryUserCommand(a), newRegistryTokenCommand(a), newRegistryACLCommand(a), newRegistryRulesCommand(a), newRegistryGCCommand(a),
		newRegistryStatCommand(a), newRegistryVerifyCommand(a), newRegistryImportCommand(a))
	return cmd
}

func newRegistryGCCommand(a *app) *cobra.Command {
	var at registryPlace
	var format string
	var o registry.GCOptions
	cmd := &cobra.Command{
		Use:   "gc [OPTIONS]",
		Short: "Remove the blobs no manifest refers to",
		Long: `Remove the blobs no manifest refers to.

Servers may use the registry meanwhile: what was pushed, mounted or asked for within the
grace stays. "teu serve registry" does the same from time to time.`,
		Example: `  teu registry gc --root /srv/registry --dry-run
  teu registry gc --untagged --grace 24h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return &usageError{command: "teu registry gc", err: errors.New("--format is text or json")}
			}
			start := time.Now()
			r, err := registry.GC(cmd.Context(), at.options(a), o)
			if err != nil {
				return err
			}
			return printGC(a, r, o, format, time.Since(start))
		},
	}
	f := cmd.Flags()
	at.flags(f)
	f.BoolVar(&o.DryRun, "dry-run", false, "only tell what would be removed")
	f.StringVar(&format, "format", "text", "text or json")
	f.IntVar(&o.Rate, "rate", 0, "files to look at in a second, 0 for all the disk can do")
	gcFlags(cmd, &o, "")
	return cmd
}

// registryPlace says where a registry keeps its data.
type registryPlace struct {
	root string
	s3   registry.BucketOptions
}

func (p *registryPlace) flags(f *pflag.FlagSet) {
	f.StringVar(&p.root, "root", "", "directory of the registry (default \"registry\" in teu's store)")
	f.StringVar(&p.s3.URL, "s3", "", "bucket that holds the registry instead, as https://HOST/BUCKET[/PREFIX]; the key is in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	f.StringVar(&p.s3.Region, "s3-region", "", "region of the bucket")
}

// options returns the place by flags, else by the configuration file, else in teu's store.
func (p *registryPlace) options(a *app) registry.Options {
	o := registry.Options{Root: p.root, Bucket: p.s3}
	a.config.Registry.Apply(&o)
	if o.Root == "" && o.Bucket.URL == "" {
		o.Root = filepath.Join(a.root, "registry")
	}
	return o
}

// existing is options of a registry that is not to be made.
func (p *registryPlace) existing(a *app) registry.Options {
	o := p.options(a)
	o.Existing = true
	return o
}

// gcFlags adds the flags that say what is garbage.
func gcFlags(cmd *cobra.Command, o *registry.GCOptions, prefix string) {
	cmd.Flags().DurationVar(&o.Grace, prefix+"grace", registry.DefaultGrace, "how long blobs without a manifest are kept: longer than a push takes")
	cmd.Flags().BoolVar(&o.Untagged, prefix+"untagged", false, "remove manifests that no tag, index or subject leads to, too")
}

func printGC(a *app, r registry.GCReport, o registry.GCOptions, format string, took time.Duration) error {
	if format == "json" {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		a.ui.Println(string(b))
		return nil
	}
	removed := "removed"
	if o.DryRun {
		removed = "would remove"
	}
	a.ui.Printf("looked at %d repositories, %d manifests and %d blobs in %s\n", r.Repositories, r.Manifests, r.Blobs, took.Round(time.Millisecond))
	if r.Fresh > 0 {
		a.ui.Printf("kept %d that are unused for less than %s\n", r.Fresh, o.Grace)
	}
	if r.RemovedTags > 0 {
		a.ui.Printf("%s %d tags by the rules\n", removed, r.RemovedTags)
	}
	a.ui.Printf("%s %d manifests, %d links of repositories and %d blobs: %s (%d bytes)\n",
		removed, r.RemovedManifests, r.RemovedLinks, r.RemovedBlobs, units.HumanSize(float64(r.Bytes)), r.Bytes)
	return nil
}

type registryConfig = registry.Config
