//go:build !front

package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

func newHistoryCommand(a *app) *cobra.Command {
	var quiet, noTrunc, human bool
	var format, platform string
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show how an image was made",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := a.library()
			if err != nil {
				return err
			}
			p, err := onePlatform(platform)
			if err != nil {
				return err
			}
			steps, err := lib.History(cmd.Context(), args[0], library.InspectOptions{Platform: p})
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
	f.StringVar(&platform, "platform", "", "platform of the image, such as linux/arm64 (default the host's)")
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
