//go:build !front && !porter

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

func newSystemDFCommand(a *app) *cobra.Command {
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show where the bytes of the store are",
		Long: `Show where the bytes of the store are.

Layers and blobs that images share count once. What broken downloads have left counts as images' and
can be reclaimed. The size of the build cache is what it has, with what images need too.`,
		Example: "  teu system df\n  teu system df --verbose\n  teu system df --format json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := a.diskUsage(cmd.Context())
			if err != nil {
				return err
			}
			if verbose {
				return u.printAll(a, format)
			}
			return u.print(a, format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "table, json or a Go template")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "each image, container, volume and cache entry")
	return cmd
}

// diskUsage is all that `system df` tells of.
type diskUsage struct {
	store      cache.Usage
	images     []library.ImageUsage
	containers []*runner.Container
	names      []string         // of the containers' images
	written    map[string]int64 // by ID of a container
	volumes    []runner.Volume
	links      map[string][]string // containers by volume
	sizes      map[string]int64    // of volumes
	cache      []build.CacheEntry
}

func (a *app) diskUsage(ctx context.Context) (*diskUsage, error) {
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	lib, err := a.library()
	if err != nil {
		return nil, err
	}
	u := &diskUsage{written: map[string]int64{}, sizes: map[string]int64{}}
	if u.store, err = s.DiskUsage(ctx); err != nil {
		return nil, err
	}
	if u.images, err = lib.Usage(ctx); err != nil {
		return nil, err
	}
	if u.containers, err = a.engine().List(ctx); err != nil {
		return nil, err
	}
	u.names = a.engine().ImageNames(ctx, u.containers)
	for _, c := range u.containers {
		u.written[c.ID] = a.engine().WrittenSize(c.ID)
	}
	if u.volumes, err = a.engine().Volumes(nil); err != nil {
		return nil, err
	}
	if u.links, err = a.engine().VolumeUsers(); err != nil {
		return nil, err
	}
	for _, v := range u.volumes {
		u.sizes[v.Name] = a.engine().VolumeSize(v.Name)
	}
	b, err := a.builder()
	if err != nil {
		return nil, err
	}
	u.cache, err = b.Cache(ctx)
	return u, err
}

// kindUsage is a line of the short form.
type kindUsage struct {
	total, active int
	size, free    int64
}

func (k *kindUsage) add(size int64, active bool) {
	k.total++
	k.size += size
	if active {
		k.active++
	} else {
		k.free += size
	}
}

func (k kindUsage) row(name string, percent bool) ui.Row {
	free := units.HumanSize(float64(k.free))
	if percent && k.size > 0 {
		free = fmt.Sprintf("%s (%d%%)", free, k.free*100/k.size)
	}
	return ui.Row{
		"Type": name, "TotalCount": strconv.Itoa(k.total), "Active": strconv.Itoa(k.active),
		"Size": units.HumanSize(float64(k.size)), "Reclaimable": free,
	}
}

// print writes docker's four lines.
func (u *diskUsage) print(a *app, format string) error {
	images := kindUsage{total: len(u.images), size: u.store.Images, free: u.store.Unused}
	for _, img := range u.images {
		if img.Containers > 0 {
			images.active++
		}
	}
	var containers, volumes, entries kindUsage
	for _, c := range u.containers {
		containers.add(u.written[c.ID], c.State.Status.GoesOn())
	}
	for _, v := range u.volumes {
		volumes.add(u.sizes[v.Name], len(u.links[v.Name]) > 0)
	}
	for _, e := range u.cache {
		entries.add(e.Size, e.InUse)
		if e.Shared && !e.InUse {
			entries.free -= e.Size // the images keep it
		}
	}
	table := ui.Table{
		Fields: []ui.Field{
			{Name: "Type", Header: "TYPE"}, {Name: "TotalCount", Header: "TOTAL"}, {Name: "Active", Header: "ACTIVE"},
			{Name: "Size", Header: "SIZE"}, {Name: "Reclaimable", Header: "RECLAIMABLE"},
		},
		Default: []string{"Type", "TotalCount", "Active", "Size", "Reclaimable"},
	}
	return a.ui.List(table, format, []ui.Row{
		images.row("Images", true), containers.row("Containers", true), volumes.row("Local Volumes", true), entries.row("Build Cache", false),
	})
}

// printAll writes docker's long form: a table of each kind, or one object, in which nothing is shortened.
func (u *diskUsage) printAll(a *app, format string) error {
	whole := format != "" && format != "table"
	images := imagesTable(false)
	images.Default = []string{"Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"}
	containers := psTable(true)
	containers.Default = []string{"ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"}
	parts := []struct {
		key, heading string
		table        ui.Table
		rows         []ui.Row
	}{
		{"Images", "Images space usage:", images, u.imageRows(whole)},
		{"Containers", "Containers space usage:", containers, u.containerRows(a, whole)},
		{"Volumes", "Local Volumes space usage:", ui.Table{
			Fields:  []ui.Field{{Name: "Name", Header: "VOLUME NAME"}, {Name: "Links", Header: "LINKS"}, {Name: "Size", Header: "SIZE"}},
			Default: []string{"Name", "Links", "Size"},
		}, u.volumeRows()},
		{"BuildCache", "Build cache usage: " + units.HumanSize(float64(u.cacheSize())), ui.Table{
			Fields: []ui.Field{
				{Name: "ID", Header: "CACHE ID"}, {Name: "CacheType", Header: "CACHE TYPE"}, {Name: "Size", Header: "SIZE"},
				{Name: "CreatedSince", Header: "CREATED"}, {Name: "LastUsedSince", Header: "LAST USED"}, {Name: "UsageCount", Header: "USAGE"},
				{Name: "Shared", Header: "SHARED"}, {Name: "InUse", Header: "IN USE"}, {Name: "Description", Header: "DESCRIPTION"},
			},
			Default: []string{"ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"},
		}, u.cacheRows()},
	}
	if whole {
		object := map[string][]ui.Row{}
		for _, p := range parts {
			object[p.key] = append([]ui.Row{}, p.rows...)
		}
		if format == "json" {
			data, err := json.Marshal(object)
			a.ui.Println(string(data))
			return err
		}
		return a.ui.Describe(format, object)
	}
	for i, p := range parts {
		if i > 0 {
			a.ui.Println()
		}
		a.ui.Printf("%s\n\n", p.heading)
		if err := a.ui.List(p.table, "", p.rows); err != nil {
			return err
		}
	}
	return nil
}

func (u *diskUsage) imageRows(whole bool) (rows []ui.Row) {
	for _, img := range u.images {
		imageRows(img.Image, imagesFlags{format: "all", noTrunc: whole}, ui.Row{}, func(row ui.Row) bool {
			row["SharedSize"], row["UniqueSize"] = units.HumanSize(float64(img.Shared)), units.HumanSize(float64(img.Unique))
			row["Containers"] = strconv.Itoa(img.Containers)
			rows = append(rows, maps.Clone(row))
			return true
		})
	}
	return rows
}

func (u *diskUsage) containerRows(a *app, whole bool) (rows []ui.Row) {
	maker := psRows{engine: a.engine(), rest: true, noTrunc: whole}
	for i, c := range u.containers {
		row := maker.row(c, u.names[i])
		row["Size"] = units.HumanSizeWithPrecision(float64(u.written[c.ID]), 3)
		rows = append(rows, row)
	}
	return rows
}

func (u *diskUsage) volumeRows() (rows []ui.Row) {
	for _, v := range u.volumes {
		row := volumeRow(v)
		row["Links"], row["Size"] = strconv.Itoa(len(u.links[v.Name])), units.HumanSize(float64(u.sizes[v.Name]))
		rows = append(rows, row)
	}
	return rows
}

func (u *diskUsage) cacheSize() (sum int64) {
	for _, e := range u.cache {
		sum += e.Size
	}
	return sum
}

func (u *diskUsage) cacheRows() (rows []ui.Row) {
	for _, e := range u.cache {
		rows = append(rows, ui.Row{
			"ID": e.ID, "CacheType": e.Type, "Size": units.HumanSize(float64(e.Size)), "CreatedSince": ago(e.Created), "LastUsedSince": ago(e.LastUsed),
			"UsageCount": "1", "Shared": strconv.FormatBool(e.Shared), "InUse": strconv.FormatBool(e.InUse), "Description": e.Description,
		})
	}
	return rows
}
