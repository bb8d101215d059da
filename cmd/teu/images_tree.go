package main

import (
	"context"
	"errors"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// checkTree refuses what makes no sense with --tree, as docker does.
func checkTree(f imagesFlags) error {
	switch {
	case f.quiet:
		return errors.New("--quiet is not yet supported with --tree")
	case f.noTrunc:
		return errors.New("--no-trunc is not yet supported with --tree")
	case f.digests:
		return errors.New("--show-digest is not yet supported with --tree")
	case f.format != "":
		return errors.New("--format is not yet supported with --tree")
	}
	return nil
}

// listTree shows images with their platforms.
func listTree(ctx context.Context, a *app, store *cache.Store, images []listing.Image) error {
	containers, err := a.engine().List(ctx)
	if err != nil {
		return err
	}
	used := map[digest.Digest]bool{}
	for _, c := range containers {
		used[c.ImageID] = true
	}
	var rows []ui.Row
	for _, img := range images {
		for _, records := range byTarget(img.Records) {
			tree, err := treeOf(ctx, store, img.ID, records, used)
			if err != nil {
				return err
			}
			rows = append(rows, tree...)
		}
	}
	return a.ui.List(ui.Table{
		Fields: []ui.Field{
			{Name: "Image", Header: "IMAGE"}, {Name: "ID", Header: "ID"}, {Name: "DiskUsage", Header: "DISK USAGE"},
			{Name: "ContentSize", Header: "CONTENT SIZE"}, {Name: "Extra", Header: "EXTRA"},
		},
		Default: []string{"Image", "ID", "DiskUsage", "ContentSize", "Extra"},
	}, "", rows)
}

// byTarget groups the names of an image: the same image may stand alone under one and in an index under another.
func byTarget(records []*image.Image) (groups [][]*image.Image) {
	at := map[digest.Digest]int{}
	for _, r := range records {
		i, known := at[r.Target.Digest]
		if !known {
			i, groups = len(groups), append(groups, nil)
			at[r.Target.Digest] = i
		}
		groups[i] = append(groups[i], r)
	}
	return groups
}

// treeOf returns a row for each name of an image, of which the last tells of the image, and for each platform.
func treeOf(ctx context.Context, store *cache.Store, id digest.Digest, records []*image.Image, used map[digest.Digest]bool) ([]ui.Row, error) {
	variants, err := listing.Variants(ctx, store, records[0].Target)
	if err != nil {
		return nil, err
	}
	var rows, platforms []ui.Row
	var blobs, disk int64
	inUse := used[id]
	for i, v := range variants {
		branch := "├─ "
		if i == len(variants)-1 {
			branch = "└─ "
		}
		blobs, disk, inUse = blobs+v.Content, disk+v.Content+v.Unpacked, inUse || used[v.ID]
		platforms = append(platforms, treeRow(branch+content.PlatformString(v.Platform), v.Target.Digest, v.Content+v.Unpacked, v.Content, used[v.ID]))
	}
	for i, r := range records {
		name := listing.Familiar(r.Name)
		if name == "" {
			name = "<untagged>"
		}
		if i < len(records)-1 {
			rows = append(rows, ui.Row{"Image": name, "ID": "", "DiskUsage": "", "ContentSize": "", "Extra": ""})
		} else {
			rows = append(rows, treeRow(name, id, disk, blobs, inUse))
		}
	}
	return append(rows, platforms...), nil
}

func treeRow(name string, id digest.Digest, disk, blobs int64, used bool) ui.Row {
	row := ui.Row{
		"Image": name, "ID": listing.ShortID(id), "Extra": "",
		"DiskUsage":   units.HumanSizeWithPrecision(float64(disk), 3),
		"ContentSize": units.HumanSizeWithPrecision(float64(blobs), 3),
	}
	if used {
		row["Extra"] = "U"
	}
	return row
}
