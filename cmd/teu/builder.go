//go:build !front && !porter

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

func newBuilderCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "builder", Short: "Look after the build cache"}
	cmd.AddCommand(newBuildCommand(a), newBuilderDuCommand(a), newBuilderPruneCommand(a))
	return cmd
}

// cacheTable has the columns of `docker buildx du`.
func cacheTable() ui.Table {
	return ui.Table{
		Fields: []ui.Field{
			{Name: "ID", Header: "ID"}, {Name: "Reclaimable", Header: "RECLAIMABLE"}, {Name: "Size", Header: "SIZE"},
			{Name: "LastUsedAt", Header: "LAST ACCESSED"}, {Name: "CreatedAt", Header: "CREATED"}, {Name: "Type", Header: "TYPE"},
			{Name: "Description", Header: "DESCRIPTION"}, {Name: "Shared", Header: "SHARED"}, {Name: "InUse", Header: "IN USE"},
		},
		Default: []string{"ID", "Reclaimable", "Size", "LastUsedAt"},
	}
}

func cacheRow(e build.CacheEntry) ui.Row {
	return ui.Row{
		"ID": e.ID, "Reclaimable": strconv.FormatBool(!e.InUse), "Size": units.HumanSize(float64(e.Size)),
		"LastUsedAt": ago(e.LastUsed), "CreatedAt": ago(e.Created), "Type": e.Type, "Description": e.Description,
		"Shared": strconv.FormatBool(e.Shared), "InUse": strconv.FormatBool(e.InUse),
	}
}

func newBuilderDuCommand(a *app) *cobra.Command {
	var filters []string
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "du [OPTIONS]",
		Short:   "Show what the build cache holds, the least recently used first",
		Example: "  teu builder du\n  teu builder du --filter type=exec.cachemount\n  teu builder du --format json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			matches, err := build.ParseCacheFilters(filters, time.Now())
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			entries, err := b.Cache(cmd.Context())
			if err != nil {
				return err
			}
			entries = slices.DeleteFunc(entries, func(e build.CacheEntry) bool { return !matches(e) })
			switch {
			case verbose:
				describeCache(a.ui, entries)
			case format != "":
				return a.ui.List(cacheTable(), format, cacheRows(entries))
			default:
				if err := a.ui.List(cacheTable(), "", cacheRows(entries)); err != nil {
					return err
				}
			}
			summarize(a.ui, entries)
			return nil
		},
	}
	f := cmd.Flags()
	filterVar(f, &filters, "", "id=, type=, description=, shared=, inuse=, until=DURATION")
	f.StringVar(&format, "format", "", "table, json or a Go template")
	f.BoolVar(&verbose, "verbose", false, "tell all that is known of each entry")
	ignoreBuilder(cmd)
	return cmd
}

func cacheRows(entries []build.CacheEntry) []ui.Row {
	rows := make([]ui.Row, len(entries))
	for i, e := range entries {
		rows[i] = cacheRow(e)
	}
	return rows
}

// describeCache prints entries as `docker buildx du --verbose` does.
func describeCache(u *ui.UI, entries []build.CacheEntry) {
	for _, e := range entries {
		u.Printf("ID:\t\t%s\nCreated at:\t%s\nMutable:\t%v\nReclaimable:\t%v\nShared:\t\t%v\nSize:\t\t%s\nDescription:\t%s\nLast used:\t%s\nType:\t\t%s\n\n",
			e.ID, e.Created.UTC(), e.Type == build.CacheMount, !e.InUse, e.Shared, units.HumanSize(float64(e.Size)), e.Description,
			ago(e.LastUsed), e.Type)
	}
}

func summarize(u *ui.UI, entries []build.CacheEntry) {
	var shared, free, total int64
	for _, e := range entries {
		total += e.Size
		if e.Shared {
			shared += e.Size
		}
		if !e.InUse {
			free += e.Size
		}
	}
	if shared > 0 {
		u.Printf("Shared:\t\t%s\nPrivate:\t%s\n", units.HumanSize(float64(shared)), units.HumanSize(float64(total-shared)))
	}
	u.Printf("Reclaimable:\t%s\nTotal:\t\t%s\n", units.HumanSize(float64(free)), units.HumanSize(float64(total)))
}

// builderPruneFlags are docker's flags of `builder prune`.
type builderPruneFlags struct {
	all, force, verbose bool
	filters             []string
	keep, reserved      string
	maxUsed, minFree    string
}

func newBuilderPruneCommand(a *app) *cobra.Command {
	var f builderPruneFlags
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove the build cache",
		Example: `  teu builder prune --force
  teu builder prune --all --filter until=48h
  teu builder prune --reserved-space 10GB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := build.PruneOptions{All: f.all}
			var err error
			if o.Matches, err = build.ParseCacheFilters(f.filters, time.Now()); err == nil {
				err = f.space(&o)
			}
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return pruneBuilder(cmd.Context(), a, f, o)
		},
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all", "a", false, "remove all of it, not just what no image needs")
	s.BoolVarP(&f.force, "force", "f", false, "do not ask")
	s.BoolVar(&f.verbose, "verbose", false, "tell all that is known of each entry")
	filterVar(s, &f.filters, "", "only what matches: id=, type=, description=, shared=, inuse=, until=DURATION")
	s.StringVar(&f.reserved, "reserved-space", "", "keep so many bytes of what was used last, such as 10GB")
	s.StringVar(&f.maxUsed, "max-used-space", "", "remove no more than until so many bytes are left")
	s.StringVar(&f.minFree, "min-free-space", "", "remove no more than until the disk has so many bytes free")
	s.StringVar(&f.keep, "keep-storage", "", "another name of --reserved-space")
	s.MarkHidden("keep-storage")
	ignoreBuilder(cmd)
	return cmd
}

// space sets how much may stay.
func (f *builderPruneFlags) space(o *build.PruneOptions) (err error) {
	if f.reserved == "" {
		f.reserved = f.keep
	}
	for _, flag := range []struct {
		name, text string
		to         *int64
	}{{"--reserved-space", f.reserved, &o.Keep}, {"--max-used-space", f.maxUsed, &o.MaxUsed}, {"--min-free-space", f.minFree, &o.MinFree}} {
		if flag.text == "" {
			continue
		}
		if *flag.to, err = units.RAMInBytes(flag.text); err != nil {
			return fmt.Errorf("%s %s: %w", flag.name, flag.text, err)
		}
	}
	return nil
}

// ignoreBuilder takes the flags of buildx that choose a builder and how long to wait for it.
func ignoreBuilder(cmd *cobra.Command) {
	for _, name := range []string{"builder", "timeout"} {
		cmd.Flags().String(name, "", "")
		_ = cmd.Flags().MarkHidden(name) // it was just made
	}
}

func pruneBuilder(ctx context.Context, a *app, f builderPruneFlags, o build.PruneOptions) error {
	if !f.force {
		what := "all dangling build cache"
		if f.all {
			what = "all build cache"
		}
		if !a.confirm(ctx, "WARNING! This will remove "+what+".\n") {
			return nil
		}
	}
	b, err := a.builder()
	if err != nil {
		return err
	}
	gone, err := b.Prune(ctx, o)
	if err != nil {
		return err
	}
	if f.verbose {
		describeCache(a.ui, gone)
	} else if len(gone) > 0 {
		if err := a.ui.List(cacheTable(), "", cacheRows(gone)); err != nil {
			return err
		}
	}
	var total int64
	for _, e := range gone {
		total += e.Size
	}
	a.engine().TellPruned("builder", total)
	a.ui.Printf("Total:\t%s\n", units.HumanSize(float64(total)))
	return nil
}
