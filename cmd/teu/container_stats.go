package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

// statsFlags are the flags of stats.
type statsFlags struct {
	all, noStream, noTrunc bool
	format                 string
}

func newStatsCommand(a *app) *cobra.Command {
	var f statsFlags
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Show what containers use of the host",
		RunE: func(cmd *cobra.Command, args []string) error {
			return showStats(cmd.Context(), a, f, args)
		},
	}
	cmd.Flags().BoolVarP(&f.all, "all", "a", false, "also those that do not run")
	cmd.Flags().BoolVar(&f.noStream, "no-stream", false, "show it once")
	cmd.Flags().BoolVar(&f.noTrunc, "no-trunc", false, "do not shorten")
	cmd.Flags().StringVar(&f.format, "format", "", "table, json or a template")
	return cmd
}

func statsTable() ui.Table {
	return ui.Table{
		Fields: []ui.Field{
			{Name: "Container", Header: "CONTAINER"}, {Name: "ID", Header: "CONTAINER ID"}, {Name: "Name", Header: "NAME"},
			{Name: "CPUPerc", Header: "CPU %"}, {Name: "MemUsage", Header: "MEM USAGE / LIMIT"}, {Name: "MemPerc", Header: "MEM %"},
			{Name: "NetIO", Header: "NET I/O"}, {Name: "BlockIO", Header: "BLOCK I/O"}, {Name: "PIDs", Header: "PIDS"},
		},
		Default: []string{"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"},
	}
}

// firstInterval is how far the two looks are apart that one number of CPU use takes.
const firstInterval = 50 * time.Millisecond

func showStats(ctx context.Context, a *app, f statsFlags, args []string) error {
	f.format = listFormat(f.format, false, func(c dockerConfig) string { return c.StatsFormat })
	all, err := statsTargets(ctx, a, f, args)
	if err != nil {
		return err
	}
	before := statsByID(a.engine().CPUOf(all))
	for wait := firstInterval; ; wait = time.Second {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if wait != firstInterval {
			if all, err = statsTargets(ctx, a, f, args); err != nil {
				return err
			}
		}
		now := a.engine().StatsOf(all)
		if !f.noStream && a.ui.OutTerminal() && f.format == "" {
			fmt.Fprint(a.ui.Out, "\033[2J\033[H")
		}
		var rows []ui.Row
		for i, s := range now {
			rows = append(rows, statsRow(before[s.ID], s, f.noTrunc, args, i))
		}
		if err := a.ui.List(statsTable(), f.format, rows); err != nil || f.noStream {
			return err
		}
		before = statsByID(now)
	}
}

func statsByID(list []runner.Stats) map[string]runner.Stats {
	m := make(map[string]runner.Stats, len(list))
	for _, s := range list {
		m[s.ID] = s
	}
	return m
}

// statsTargets are the containers named, or all that run.
func statsTargets(ctx context.Context, a *app, f statsFlags, args []string) (all []*runner.Container, err error) {
	if len(args) > 0 {
		for _, ref := range args {
			c, err := a.engine().Get(ctx, ref)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
		return all, nil
	}
	list, err := a.engine().List(ctx)
	for _, c := range list {
		if f.all || c.State.Alive() {
			all = append(all, c)
		}
	}
	return all, err
}

func statsRow(before, s runner.Stats, noTrunc bool, args []string, i int) ui.Row {
	row := ui.Row{
		"Container": shortID(s.ID, noTrunc), "ID": shortID(s.ID, noTrunc), "Name": s.Name, "CPUPerc": "0.00%", "MemUsage": "0B / 0B",
		"MemPerc": "0.00%", "NetIO": "0B / 0B", "BlockIO": "0B / 0B", "PIDs": "0",
	}
	if len(args) > 0 {
		row["Container"] = args[i]
	}
	if s.Read.IsZero() {
		return row
	}
	cpu := 0.0
	if d := s.Read.Sub(before.Read); !before.Read.IsZero() && d > 0 && s.CPU > before.CPU {
		cpu = 100 * float64(s.CPU-before.CPU) / float64(d)
	}
	used := s.MemoryUsage
	if s.MemoryCache < used { // as docker: what could be dropped at once does not count
		used -= s.MemoryCache
	}
	limit := s.MemoryLimit
	if limit == 0 || limit > s.HostMemory {
		limit = s.HostMemory
	}
	var rx, tx uint64
	for _, n := range s.Networks {
		rx, tx = rx+n.RxBytes, tx+n.TxBytes
	}
	size := func(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	row["CPUPerc"] = fmt.Sprintf("%.2f%%", cpu)
	row["MemUsage"] = units.BytesSize(float64(used)) + " / " + units.BytesSize(float64(limit))
	row["MemPerc"] = fmt.Sprintf("%.2f%%", 100*float64(used)/float64(max(limit, 1)))
	row["NetIO"] = size(rx) + " / " + size(tx)
	row["BlockIO"] = size(s.ReadBytes) + " / " + size(s.WriteBytes)
	row["PIDs"] = strconv.FormatUint(s.Pids, 10)
	return row
}

func newEventsCommand(a *app) *cobra.Command {
	var since, until, format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Show what happens, as it happens",
		Example: `  teu events --since 10m --filter event=die
  teu events --filter container=web --format json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showEvents(cmd.Context(), a, since, until, format, filters)
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "also what happened since a time, or for a while (10m)")
	f.StringVar(&until, "until", "", "end at a time")
	f.StringVar(&format, "format", "", "json or a template")
	filterVar(f, &filters, "f", "container=, event=, image=, label=, type=, volume=, network=")
	return cmd
}

// splitFilters makes docker's filters of what a --filter has let through.
func splitFilters(list []string) map[string][]string {
	filters := map[string][]string{}
	for _, text := range list {
		k, v, _ := strings.Cut(text, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		filters[k] = append(filters[k], strings.TrimSpace(v))
	}
	return filters
}
