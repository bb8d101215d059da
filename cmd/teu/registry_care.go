//go:build !front && !porter

package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/server/registry"
)

// printReport prints v as JSON, or by text.
func (a *app) printReport(format string, v any, text func()) error {
	switch format {
	case "text":
		text()
		return nil
	case "json":
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		a.ui.Println(string(b))
		return nil
	}
	return &usageError{command: "teu registry", err: errors.New("--format is text or json")}
}

func newRegistryStatCommand(a *app) *cobra.Command {
	var at registryPlace
	var format string
	cmd := &cobra.Command{
		Use:   "stat [OPTIONS]",
		Short: "Count what a registry has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := registry.ReadStat(cmd.Context(), at.options(a))
			if err != nil {
				return err
			}
			return a.printReport(format, s, func() {
				a.ui.Printf("%d repositories with %d tags, %d manifests and %d blobs\n%d blobs in all: %s (%d bytes)\n",
					s.Repositories, s.Tags, s.Manifests, s.Links, s.Blobs, units.HumanSize(float64(s.Bytes)), s.Bytes)
			})
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}

func newRegistryVerifyCommand(a *app) *cobra.Command {
	var at registryPlace
	var format, heal string
	var how registry.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify [OPTIONS]",
		Short: "Read everything and compare it with its digests",
		Long: `Read everything and compare it with its digests.

With --quarantine what is bad is put out of the way: clients are told that it is not there,
and the next push of it heals the registry; what is mirrored comes back with the next pull.
With --heal it is fetched at once from another registry, a replica or where it was imported
from, that has the repositories by the same names, tags included. The exit code is 1 if
something stays bad.`,
		Example: `  teu registry verify --root /srv/registry
  teu registry verify --root /srv/registry --heal replica.example`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if heal != "" {
				how.Heal = registry.RemoteSource(heal, openUpstream(a.registry()))
			}
			r, err := registry.Verify(cmd.Context(), at.options(a), how)
			if err != nil {
				return err
			}
			if err := a.printReport(format, r, func() { a.printVerifyReport(r) }); err != nil {
				return err
			}
			if n := len(r.Bad) - r.Healed; n > 0 {
				return fmt.Errorf("%d blobs or manifests have other bytes than their digests say", n)
			}
			return nil
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().BoolVar(&how.Quarantine, "quarantine", false, "put what is bad out of the way")
	cmd.Flags().StringVar(&heal, "heal", "", "HOST[:PORT] of a registry to fetch what is bad from, with the credentials of teu login")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}

func (a *app) printVerifyReport(r registry.VerifyReport) {
	for _, bad := range r.Bad {
		end := ""
		switch {
		case bad.Healed:
			end = ", healed"
		case bad.NotHealed != "":
			end = ", not healed: " + bad.NotHealed
		}
		a.ui.Printf("%s %s: %s%s\n", bad.Digest, bad.Repository, bad.Reason, end)
	}
	healed := ""
	if r.Healed > 0 {
		healed = fmt.Sprintf(", %d healed", r.Healed)
	}
	a.ui.Printf("%d blobs (%s) and %d manifests, %d of them bad%s\n", r.Blobs, units.HumanSize(float64(r.Bytes)), r.Manifests, len(r.Bad), healed)
}

func newRegistryImportCommand(a *app) *cobra.Command {
	var at registryPlace
	var format, from, distribution string
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] [REPOSITORY...]",
		Short: "Copy repositories from another registry",
		Long: `Copy repositories from another registry: all tags, and what they lead to.

What is here is not read again, so that an import may be repeated.`,
		Example: `  teu registry import --distribution /var/lib/registry
  teu registry import --from old.example:5000 team/app team/web`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var src registry.ImportSource
			var err error
			switch {
			case (from == "") == (distribution == ""):
				return &usageError{command: "teu registry import", err: errors.New("give one of --from and --distribution")}
			case from != "":
				src = registry.RemoteSource(from, openUpstream(a.registry()))
			default:
				if src, err = registry.DistributionSource(distribution); err != nil {
					return err
				}
			}
			r, err := registry.Import(cmd.Context(), at.options(a), src, args, func(repo string) { a.ui.Notef("importing %s", repo) })
			if err != nil {
				return err
			}
			return a.printReport(format, r, func() {
				a.ui.Printf("imported %d repositories with %d tags: %d manifests and %d blobs were new, %s read\n",
					r.Repositories, r.Tags, r.Manifests, r.Blobs, units.HumanSize(float64(r.Bytes)))
			})
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "HOST[:PORT] of a running registry, with the credentials of teu login")
	cmd.Flags().StringVar(&distribution, "distribution", "", "data directory of Docker's registry image, version 2 or 3")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}
