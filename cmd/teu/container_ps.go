package main

import (
	"context"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

// psFlags are the flags of ps.
type psFlags struct {
	all, latest, noTrunc, quiet, size bool
	last                              int
	format                            string
	filters                           []string
}

func newPsCommand(a *app) *cobra.Command {
	var p psFlags
	cmd := &cobra.Command{
		Use:     "ps [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List containers",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return listContainers(cmd.Context(), a, &p) },
	}
	f := cmd.Flags()
	f.BoolVarP(&p.all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&p.latest, "latest", "l", false, "the one created last, in any state")
	f.IntVarP(&p.last, "last", "n", -1, "the n created last, in any state")
	f.BoolVar(&p.noTrunc, "no-trunc", false, "do not shorten")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "IDs only")
	f.BoolVarP(&p.size, "size", "s", false, "show what they have written")
	f.StringVar(&p.format, "format", "", "table, json, raw or a template")
	filterVar(f, &p.filters, "f", "name=, id=, status=, label=, ancestor=, exited=, volume=, network=")
	return cmd
}

func psTable(size bool) ui.Table {
	t := ui.Table{
		Fields: []ui.Field{
			{Name: "ID", Header: "CONTAINER ID"}, {Name: "Image", Header: "IMAGE"}, {Name: "Command", Header: "COMMAND"},
			{Name: "RunningFor", Header: "CREATED"}, {Name: "CreatedAt", Header: "CREATED AT"}, {Name: "Status", Header: "STATUS"},
			{Name: "State", Header: "STATE"}, {Name: "Ports", Header: "PORTS"}, {Name: "Names", Header: "NAMES"},
			{Name: "Size", Header: "SIZE"}, {Name: "Labels", Header: "LABELS"}, {Name: "Mounts", Header: "MOUNTS"},
			{Name: "Networks", Header: "NETWORKS"}, {Name: "LocalVolumes", Header: "LOCAL VOLUMES"},
			{Name: "HealthStatus", Header: "HEALTH STATUS"}, {Name: "Platform", Header: "PLATFORM"},
		},
		Default: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
		Raw: []ui.Field{
			{Name: "ID", Header: "container_id"}, {Name: "Image", Header: "image"}, {Name: "Command", Header: "command"},
			{Name: "CreatedAt", Header: "created_at"}, {Name: "State", Header: "state"}, {Name: "Status", Header: "status"},
			{Name: "Names", Header: "names"}, {Name: "Labels", Header: "labels"}, {Name: "Ports", Header: "ports"},
		},
	}
	if size {
		t.Default = append(t.Default, "Size")
		t.Raw = append(t.Raw, ui.Field{Name: "Size", Header: "size"})
	}
	return t
}

func listContainers(ctx context.Context, a *app, p *psFlags) error {
	p.format = listFormat(p.format, p.quiet, func(c dockerConfig) string { return c.PsFormat })
	if p.quiet && p.format != "" {
		a.ui.Warnf("Ignoring custom format, because both --format and --quiet are set.")
	} else if err := psTable(p.size).Check(p.format); err != nil {
		return err
	}
	limit := p.last
	if p.latest && limit == -1 {
		limit = 1
	}
	all, err := a.engine().Search(ctx, runner.SearchOptions{All: p.all, Limit: limit, Filters: splitFilters(p.filters)})
	if err != nil {
		return err
	}
	if p.quiet {
		for _, c := range all {
			a.ui.Println(shortID(c.ID, p.noTrunc))
		}
		return nil
	}
	rows, images := make([]ui.Row, len(all)), a.engine().ImageNames(ctx, all)
	maker := psRows{
		engine: a.engine(), noTrunc: p.noTrunc, size: p.size || strings.Contains(p.format, ".Size"),
		rest: p.format != "" && p.format != "table",
	}
	if p.format == "json" || strings.Contains(p.format, "json .") || strings.Contains(p.format, ".Platform") {
		maker.platforms = platformsOf(ctx, a.engine(), all)
	}
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for first := range workers { // a row takes reading files
		wg.Go(func() {
			for i := first; i < len(all); i += workers {
				rows[i] = maker.row(all[i], images[i])
			}
		})
	}
	wg.Wait()
	return a.ui.List(psTable(p.size), p.format, rows)
}

func shortID(id string, whole bool) string {
	if whole {
		return id
	}
	return id[:12]
}

// shortImage is docker's short form of an image's ID.
func shortImage(id digest.Digest, whole bool) string {
	if whole {
		return string(id)
	}
	return id.Encoded()[:12]
}

// psRows makes the rows of a list of containers.
type psRows struct {
	engine  *runner.Engine
	noTrunc bool
	size    bool // of what they have written and of all they see
	rest    bool // the columns that only formats show

	platforms map[digest.Digest]string // by manifest
}

// platformsOf are the platforms of containers by their manifests. One whose manifest is gone has none.
func platformsOf(ctx context.Context, e *runner.Engine, list []*runner.Container) map[digest.Digest]string {
	platforms := map[digest.Digest]string{}
	store, err := e.Store()
	if err != nil {
		return platforms
	}
	manifests := runner.NewManifests(store)
	for _, c := range list {
		if d := manifests.Of(ctx, c); d != nil {
			platforms[c.Manifest] = content.PlatformString(*d.Platform)
		}
	}
	return platforms
}

// row is that of c, whose image has the name given by [runner.Engine.ImageNames].
func (p psRows) row(c *runner.Container, image string) ui.Row {
	command := strconv.Quote(c.Command())
	if !p.noTrunc {
		command = strconv.Quote(ellipsis(c.Command(), 20))
	}
	if image == string(c.ImageID) {
		image = shortImage(c.ImageID, p.noTrunc)
	}
	row := ui.Row{
		"ID": shortID(c.ID, p.noTrunc), "Image": image, "Command": command, "RunningFor": ago(c.Created),
		"Status": runner.StatusText(c.State), "Ports": portsText(p.engine.Ports(c), p.engine.Exposed(c)), "Names": c.Name,
	}
	if p.size {
		written, whole := p.engine.RootSizes(c.ID)
		row["Size"] = units.HumanSizeWithPrecision(float64(written), 3) + " (virtual " + units.HumanSizeWithPrecision(float64(whole), 3) + ")"
	}
	if p.rest {
		p.addRest(row, c)
	}
	return row
}

func (p psRows) addRest(row ui.Row, c *runner.Container) {
	labels := []string{}
	for k, v := range c.Labels() {
		labels = append(labels, k+"="+v)
	}
	sort.Strings(labels)
	mounts, volumes := []string{}, 0
	for _, m := range c.Mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		} else {
			volumes++
		}
		if !p.noTrunc {
			name = ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	row["CreatedAt"], row["State"] = c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), string(c.State.Status)
	row["Labels"], row["Mounts"], row["LocalVolumes"] = strings.Join(labels, ","), strings.Join(mounts, ","), strconv.Itoa(volumes)
	row["HealthStatus"], row["Networks"] = runner.HealthName(c.State), strings.Join(p.engine.NetworkNames(c), ",")
	row["Platform"] = p.platforms[c.Manifest]
	if row["Size"] == "" {
		row["Size"] = "0B"
	}
}

// ellipsis shortens to n characters, the last of which says so.
func ellipsis(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }
