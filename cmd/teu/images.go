//go:build !front

package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// imagesFlags are the flags of images.
type imagesFlags struct {
	all, quiet, noTrunc, digests bool
	format                       string
	filters                      []string
}

func newImagesCommand(a *app) *cobra.Command {
	var f imagesFlags
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Example: `  teu images
  teu images --filter 'reference=registry.example/*' --format '{{.Repository}}:{{.Tag}}'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return listImages(cmd.Context(), a, f, args) },
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all", "a", false, "also those without a name")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "IDs only")
	s.BoolVar(&f.noTrunc, "no-trunc", false, "do not shorten")
	s.BoolVar(&f.digests, "digests", false, "show digests")
	s.StringVar(&f.format, "format", "", "table, json or a template")
	s.StringArrayVarP(&f.filters, "filter", "f", nil, "dangling=, reference=, label=, before=, since=, until=")
	return cmd
}

func imagesTable(digests bool) ui.Table {
	t := ui.Table{
		Fields: []ui.Field{
			{Name: "Repository", Header: "REPOSITORY"}, {Name: "Tag", Header: "TAG"}, {Name: "Digest", Header: "DIGEST"},
			{Name: "ID", Header: "IMAGE ID"}, {Name: "CreatedSince", Header: "CREATED"}, {Name: "CreatedAt", Header: "CREATED AT"},
			{Name: "Size", Header: "SIZE"}, {Name: "Containers", Header: "CONTAINERS"},
			{Name: "SharedSize", Header: "SHARED SIZE"}, {Name: "UniqueSize", Header: "UNIQUE SIZE"},
		},
		Default: []string{"Repository", "Tag", "ID", "CreatedSince", "Size"},
	}
	if digests {
		t.Default = slices.Insert(t.Default, 2, "Digest")
	}
	return t
}

func listImages(ctx context.Context, a *app, f imagesFlags, args []string) error {
	filters, err := library.ParseFilters(f.filters)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		filters["reference"] = append(filters["reference"], args[0])
	}
	lib, err := a.library()
	if err != nil {
		return err
	}
	images, err := lib.All(ctx)
	if err != nil {
		return err
	}
	if images, err = lib.Select(ctx, images, filters); err != nil {
		return err
	}
	if !f.all && len(filters["dangling"]) == 0 {
		images = slices.DeleteFunc(images, library.Image.Dangling)
	}
	var rows []ui.Row
	for _, img := range images {
		rows = append(rows, imageRows(img, f)...)
	}
	if f.quiet {
		f.format = "{{.ID}}"
	}
	return a.ui.List(imagesTable(f.digests), f.format, rows)
}

// imageRows returns a row for every name of an image.
func imageRows(img library.Image, f imagesFlags) []ui.Row {
	id := img.ID.String()
	if !f.noTrunc {
		id = library.ShortID(img.ID)
	}
	created := time.Unix(img.Created.Unix(), 0) // as docker tells it
	since, size := "N/A", units.HumanSizeWithPrecision(float64(img.Size), 3)
	if created.Unix() > 0 {
		since = ago(created)
	}
	named := func(name, tag, digest string) ui.Row {
		return ui.Row{
			"Repository": name, "Tag": tag, "Digest": digest, "ID": id, "CreatedSince": since, "CreatedAt": created.String(), "Size": size,
			"Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
		}
	}
	withDigest := f.digests || strings.Contains(f.format, ".Digest") || f.format == "json"
	digests := map[string]string{} // by repository
	for _, d := range img.Digests {
		name, digest, _ := strings.Cut(library.Familiar(d), "@")
		digests[name] = digest
	}
	rows := make([]ui.Row, 0, len(img.Tags))
	seen := map[string]bool{}
	for _, tag := range img.Tags {
		familiar := library.Familiar(tag)
		at := strings.LastIndexByte(familiar, ':')
		name, digest := familiar[:at], "<none>"
		seen[name] = true
		if withDigest && digests[name] != "" {
			digest = digests[name]
		}
		rows = append(rows, named(name, familiar[at+1:], digest))
	}
	for _, d := range img.Digests {
		if name, digest, _ := strings.Cut(library.Familiar(d), "@"); !seen[name] {
			seen[name] = true
			rows = append(rows, named(name, "<none>", digest))
		}
	}
	if len(rows) == 0 {
		rows = append(rows, named("<none>", "<none>", "<none>"))
	}
	return rows
}

func newHistoryCommand(a *app) *cobra.Command {
	var quiet, noTrunc, human bool
	var format string
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show how an image was made",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := a.library()
			if err != nil {
				return err
			}
			steps, err := lib.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var rows []ui.Row
			for _, s := range steps {
				rows = append(rows, historyRow(s, human, noTrunc))
			}
			if quiet {
				format = "{{.ID}}"
			}
			return a.ui.List(historyTable(human), format, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&human, "human", "H", true, "sizes and times for people")
	f.BoolVarP(&quiet, "quiet", "q", false, "IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten")
	f.StringVar(&format, "format", "", "table, json or a template")
	return cmd
}

func historyTable(human bool) ui.Table {
	t := ui.Table{
		Fields: []ui.Field{
			{Name: "ID", Header: "IMAGE"}, {Name: "CreatedSince", Header: "CREATED"}, {Name: "CreatedAt", Header: "CREATED AT"},
			{Name: "CreatedBy", Header: "CREATED BY"}, {Name: "Size", Header: "SIZE"}, {Name: "Comment", Header: "COMMENT"},
		},
		Default: []string{"ID", "CreatedSince", "CreatedBy", "Size", "Comment"},
	}
	if !human {
		t.Default[1] = "CreatedAt"
	}
	return t
}

func historyRow(s library.Step, human, noTrunc bool) ui.Row {
	id, by := s.ID, strings.ReplaceAll(s.CreatedBy, "\t", " ")
	if hex, ok := strings.CutPrefix(id, "sha256:"); ok && !noTrunc {
		id = hex[:12]
	}
	if !noTrunc {
		by = ellipsis(by, 45)
	}
	row := ui.Row{
		"ID": id, "CreatedBy": by, "Comment": s.Comment,
		"CreatedAt": s.Created.Local().Format(time.RFC3339), "CreatedSince": "N/A",
		"Size": units.HumanSizeWithPrecision(float64(s.Size), 3),
	}
	if s.Created.Year() > 2000 { // builds without a clock say 1970 or 1980
		row["CreatedSince"] = ago(s.Created)
	}
	if !human {
		row["Size"], row["CreatedSince"] = strconv.FormatInt(s.Size, 10), row["CreatedAt"]
	}
	return row
}
