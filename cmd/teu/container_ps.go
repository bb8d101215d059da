package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
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
	f.StringVar(&p.format, "format", "", "table, json or a template")
	f.StringArrayVarP(&p.filters, "filter", "f", nil, "name=, id=, status=, label=, ancestor=, exited=, volume=")
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
		},
		Default: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
	}
	if size {
		t.Default = append(t.Default, "Size")
	}
	return t
}

func listContainers(ctx context.Context, a *app, p *psFlags) error {
	filters, err := parseFilters(p.filters)
	if err != nil {
		return err
	}
	all, err := a.engine().List(ctx)
	if err != nil {
		return err
	}
	limit := p.last
	if p.latest {
		limit = 1
	}
	everything := p.all || limit >= 0 || len(filters["status"]) > 0 || len(filters["exited"]) > 0
	if err := filters.resolve(ctx, a); err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(c *runner.Container) bool {
		up := c.State.Status == keeper.Running || c.State.Status == keeper.Paused || c.State.Status == keeper.Restarting
		return !up && !everything || !filters.match(c)
	})
	if limit >= 0 && len(all) > limit {
		all = all[:limit]
	}
	if p.quiet {
		for _, c := range all {
			a.ui.Println(shortID(c.ID, p.noTrunc))
		}
		return nil
	}
	rows, engine := make([]ui.Row, len(all)), a.engine()
	withSize := p.size || strings.Contains(p.format, ".Size")
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for first := range workers { // a row takes reading files
		wg.Go(func() {
			for i := first; i < len(all); i += workers {
				rows[i] = psRow(engine, all[i], p.noTrunc, withSize)
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

func psRow(engine *runner.Engine, c *runner.Container, noTrunc, size bool) ui.Row {
	command := strconv.Quote(c.Command())
	if !noTrunc {
		command = strconv.Quote(ellipsis(c.Command(), 20))
	}
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
		if !noTrunc {
			name = ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	row := ui.Row{
		"ID": shortID(c.ID, noTrunc), "Image": c.Options.Image, "Command": command,
		"RunningFor": ago(c.Created), "CreatedAt": c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		"Status": statusText(c.State), "State": string(c.State.Status), "Ports": portsText(engine.Ports(c), engine.Exposed(c)),
		"Names": c.Name, "Labels": strings.Join(labels, ","), "Mounts": strings.Join(mounts, ","),
		"Networks": strings.Join(engine.NetworkNames(c), ","), "LocalVolumes": strconv.Itoa(volumes), "Size": "0B",
	}
	if size {
		written, whole := engine.RootSizes(c.ID)
		row["Size"] = units.HumanSizeWithPrecision(float64(written), 3) + " (virtual " + units.HumanSizeWithPrecision(float64(whole), 3) + ")"
	}
	return row
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

// statusText is docker's: "Up 5 minutes", "Exited (0) 2 hours ago".
func statusText(s keeper.State) string {
	switch s.Status {
	case keeper.Running:
		return "Up " + units.HumanDuration(time.Since(s.StartedAt)) + healthText(s.Health)
	case keeper.Paused:
		return "Up " + units.HumanDuration(time.Since(s.StartedAt)) + " (Paused)"
	case keeper.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ago(s.FinishedAt))
	case keeper.Created:
		return "Created"
	case keeper.Removing:
		return "Removal In Progress"
	case keeper.Dead:
		return "Dead"
	}
	return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.FinishedAt))
}

func healthText(h *keeper.Health) string {
	switch {
	case h == nil:
		return ""
	case h.Status == keeper.HealthStarting:
		return " (health: starting)"
	}
	return " (" + h.Status + ")"
}

// psFilters maps the names of filters to what was asked for.
type psFilters map[string][]string

func parseFilters(list []string) (psFilters, error) {
	filters := psFilters{}
	for _, text := range list {
		k, v, ok := strings.Cut(text, "=")
		if !ok {
			return nil, errors.New("invalid argument \"" + text + "\" for \"-f, --filter\" flag: bad format of filter (expected name=value)")
		}
		switch k {
		case "name", "id", "label", "ancestor", "volume", "network", "expose", "publish", "before", "since", "is-task":
		case "exited":
			if _, err := strconv.Atoi(v); err != nil {
				return nil, fmt.Errorf("invalid filter 'exited=%s'", v)
			}
		case "status":
			if !slices.Contains([]string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}, v) {
				return nil, fmt.Errorf("invalid filter 'status=%s'", v)
			}
		case "health":
			if !slices.Contains([]string{"none", "starting", "healthy", "unhealthy"}, v) {
				return nil, fmt.Errorf("invalid filter 'health=%s'", v)
			}
		default:
			return nil, fmt.Errorf("invalid filter '%s'", k)
		}
		filters[k] = append(filters[k], v)
	}
	return filters, nil
}

// match: different filters must all fit; of one with several values any does, but labels
// must all be there.
func (f psFilters) match(c *runner.Container) bool {
	for _, k := range slices.Sorted(maps.Keys(f)) {
		fits := func(v string) bool { return matchOne(c, k, v) }
		if k == "label" {
			if slices.ContainsFunc(f[k], func(v string) bool { return !fits(v) }) {
				return false
			}
		} else if !slices.ContainsFunc(f[k], fits) {
			return false
		}
	}
	return true
}

// resolve replaces the containers named by before and since by the time they were created.
func (f psFilters) resolve(ctx context.Context, a *app) error {
	for _, k := range []string{"before", "since"} {
		for i, ref := range f[k] {
			c, err := a.engine().Get(ctx, ref)
			if err != nil {
				return err
			}
			f[k][i] = c.Created.Format(time.RFC3339Nano)
		}
	}
	return f.resolveNetworks(ctx, a)
}

// resolveNetworks replaces networks by the containers in them.
func (f psFilters) resolveNetworks(ctx context.Context, a *app) error {
	if len(f["network"]) == 0 {
		return nil
	}
	var names []string
	for _, ref := range f["network"] {
		n, err := a.engine().Network(ctx, ref)
		if err == nil {
			names = append(names, n.Name)
		} else if !isNotFound(err) {
			return err
		}
	}
	all, err := a.engine().List(ctx)
	if err != nil {
		return err
	}
	f["network"] = []string{""} // no container has this ID
	for _, c := range all {
		if slices.ContainsFunc(a.engine().NetworkNames(c), func(name string) bool { return slices.Contains(names, name) }) {
			f["network"] = append(f["network"], c.ID)
		}
	}
	return nil
}

// hasPort says whether a container exposes or publishes a port, or one of a range:
// PORT[-PORT][/PROTOCOL].
func hasPort(c *runner.Container, published bool, text string) bool {
	numbers, protocol, _ := strings.Cut(text, "/")
	if protocol == "" {
		protocol = "tcp"
	}
	first, last, ranged := strings.Cut(numbers, "-")
	if !ranged {
		last = first
	}
	low, e1 := strconv.ParseUint(first, 10, 16)
	high, e2 := strconv.ParseUint(last, 10, 16)
	fits := func(port uint64, proto string) bool {
		return e1 == nil && e2 == nil && proto == protocol && low <= port && port <= high
	}
	for _, p := range c.Options.Ports {
		if fits(uint64(p.Container), p.Protocol) {
			return true
		}
	}
	if published {
		return false
	}
	for exposed := range c.ImageConfig.ExposedPorts {
		number, proto, _ := strings.Cut(exposed, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err == nil && fits(n, cmp.Or(proto, "tcp")) {
			return true
		}
	}
	return false
}

func matchOne(c *runner.Container, k, v string) bool {
	switch k {
	case "name":
		if anchored, ok := strings.CutPrefix(v, "^"); ok {
			anchored = strings.TrimPrefix(anchored, "/")
			if whole, ok := strings.CutSuffix(anchored, "$"); ok {
				return c.Name == whole
			}
			return strings.HasPrefix(c.Name, anchored)
		}
		return strings.Contains(c.Name, strings.Trim(v, "/$"))
	case "id":
		return v != "" && strings.HasPrefix(c.ID, v)
	case "status":
		return string(c.State.Status) == v
	case "label":
		key, value, valued := strings.Cut(v, "=")
		got, ok := c.Labels()[key]
		return ok && (!valued || got == value)
	case "ancestor":
		return c.Options.Image == v || strings.HasPrefix(c.Options.Image, v+":") || strings.Contains(c.ImageID.String(), v)
	case "health":
		status := "none"
		if c.State.Health != nil {
			status = c.State.Health.Status
		}
		return status == v
	case "before", "since": // by now the time of that container
		t, err := time.Parse(time.RFC3339Nano, v)
		return err == nil && (k == "before" && c.Created.Before(t) || k == "since" && c.Created.After(t))
	case "expose", "publish":
		return hasPort(c, k == "publish", v)
	case "is-task":
		return v == "false" || v == "0"
	case "exited":
		return c.State.Status == keeper.Exited && strconv.Itoa(c.State.ExitCode) == v
	case "volume":
		return slices.ContainsFunc(c.Mounts, func(m runner.MountPoint) bool { return m.Name == v || m.Destination == v || m.Source == v })
	case "network": // resolved to its containers
		return c.ID == v
	}
	return false
}
