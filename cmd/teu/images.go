package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// imagesFlags are the flags of images.
type imagesFlags struct {
	all, quiet, noTrunc, digests, tree bool
	format                             string
	filters                            []string
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
	s.BoolVar(&f.tree, "tree", false, "also the platforms of each image; U: a container has it")
	s.StringVar(&f.format, "format", "", "table, json, raw or a template")
	filterVar(s, &f.filters, "f", "dangling=, reference=, label=, before=, since=, until=")
	return cmd
}

func newImageLsCommand(a *app) *cobra.Command {
	cmd := newImagesCommand(a)
	cmd.Use, cmd.Aliases = "ls [OPTIONS] [REPOSITORY[:TAG]]", []string{"list"}
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
		Raw: []ui.Field{
			{Name: "Repository", Header: "repository"}, {Name: "Tag", Header: "tag"}, {Name: "ID", Header: "image_id"},
			{Name: "CreatedAt", Header: "created_at"}, {Name: "Size", Header: "virtual_size"},
		},
	}
	if digests {
		t.Default = slices.Insert(t.Default, 2, "Digest")
		t.Raw = slices.Insert(t.Raw, 2, ui.Field{Name: "Digest", Header: "digest"})
	}
	return t
}

func listImages(ctx context.Context, a *app, f imagesFlags, args []string) error {
	if f.tree {
		if err := checkTree(f); err != nil {
			return err
		}
	}
	filters, err := listing.ParseFilters(f.filters)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		filters["reference"] = append(filters["reference"], args[0])
	}
	store, err := a.store()
	if err != nil {
		return err
	}
	images, err := listing.All(ctx, store)
	if err != nil {
		return err
	}
	if images, err = listing.Select(ctx, store, images, filters); err != nil {
		return err
	}
	if !f.all && len(filters["dangling"]) == 0 {
		images = slices.DeleteFunc(images, listing.Image.Dangling)
	}
	if f.tree {
		return listTree(ctx, a, store, images)
	}
	f.format = listFormat(f.format, f.quiet, func(c dockerConfig) string { return c.ImagesFormat })
	if f.quiet && (f.format == "" || f.format == "table") {
		f.format = "{{.ID}}"
	}
	return a.ui.ListEach(imagesTable(f.digests), f.format, func(yield func(ui.Row) bool) {
		row := ui.Row{}
		for _, img := range images {
			if !imageRows(img, f, row, yield) {
				return
			}
		}
	})
}

// imageRows gives yield a row for every name of an image, which is row each time. It says whether yield wants more.
func imageRows(img listing.Image, f imagesFlags, row ui.Row, yield func(ui.Row) bool) (more bool) {
	created := time.Unix(img.Created.Unix(), 0) // as docker tells it
	row["ID"], row["CreatedSince"], row["CreatedAt"] = img.ID.String(), "N/A", ""
	row["Size"] = units.HumanSizeWithPrecision(float64(img.Size), 3)
	row["Containers"], row["SharedSize"], row["UniqueSize"] = "N/A", "N/A", "N/A"
	if !f.noTrunc {
		row["ID"] = listing.ShortID(img.ID)
	}
	if created.Unix() > 0 {
		row["CreatedSince"] = ago(created)
	}
	if f.format != "" && f.format != "{{.ID}}" { // it takes long to make, and neither list shows it
		row["CreatedAt"] = created.String()
	}
	withDigest := f.digests || strings.Contains(f.format, ".Digest") || f.format == "json"
	var seen []string // repositories
	for _, tag := range img.Tags {
		familiar := listing.Familiar(tag)
		at := strings.LastIndexByte(familiar, ':')
		row["Repository"], row["Tag"], row["Digest"] = familiar[:at], familiar[at+1:], "<none>"
		seen = append(seen, familiar[:at])
		if digest := digestIn(img, familiar[:at]); withDigest && digest != "" {
			row["Digest"] = digest
		}
		if !yield(row) {
			return false
		}
	}
	for _, d := range img.Digests {
		name, digest, _ := strings.Cut(listing.Familiar(d), "@")
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		row["Repository"], row["Tag"], row["Digest"] = name, "<none>", digest
		if !yield(row) {
			return false
		}
	}
	if len(seen) > 0 {
		return true
	}
	row["Repository"], row["Tag"], row["Digest"] = "<none>", "<none>", "<none>"
	return yield(row)
}

// digestIn returns the last digest that an image has in a repository, or "".
func digestIn(img listing.Image, repository string) string {
	for _, d := range slices.Backward(img.Digests) {
		if digest, ok := strings.CutPrefix(listing.Familiar(d), repository+"@"); ok {
			return digest
		}
	}
	return ""
}
