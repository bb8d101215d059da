//go:build !front

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/registry"
)

// searchFlags are the flags of search.
type searchFlags struct {
	filters []string
	format  string
	limit   int
	noTrunc bool
}

func newSearchCommand(a *app) *cobra.Command {
	var f searchFlags
	cmd := &cobra.Command{
		Use:   "search [OPTIONS] TERM",
		Short: "Search Docker Hub for images",
		Long:  "Search Docker Hub for images, or the registry that the term begins with.",
		Example: `  teu search --limit 10 nginx
  teu search --filter is-official=true --format '{{.Name}}' python`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return search(cmd.Context(), a, f, args[0]) },
	}
	s := cmd.Flags()
	filterVar(s, &f.filters, "f", "is-official=, is-automated=, stars=")
	s.StringVar(&f.format, "format", "", "table, json or a template")
	s.IntVar(&f.limit, "limit", 25, "at most so many results")
	s.BoolVar(&f.noTrunc, "no-trunc", false, "do not shorten")
	return cmd
}

func search(ctx context.Context, a *app, f searchFlags, term string) error {
	keep, err := searchFilter(f.filters)
	if err != nil {
		return err
	}
	results, err := a.registry().Search(ctx, term, f.limit)
	if err != nil {
		return err
	}
	t := ui.Table{
		Fields: []ui.Field{
			{Name: "Name", Header: "NAME"}, {Name: "Description", Header: "DESCRIPTION"}, {Name: "StarCount", Header: "STARS"},
			{Name: "IsOfficial", Header: "OFFICIAL"}, {Name: "IsAutomated", Header: "AUTOMATED"},
		},
		Default: []string{"Name", "Description", "StarCount", "IsOfficial"},
	}
	var rows []ui.Row
	for _, r := range results {
		if !keep(r) {
			continue
		}
		if !f.noTrunc {
			r.Description = ellipsis(r.Description, 45)
		}
		rows = append(rows, ui.Row{
			"Name": r.Name, "Description": r.Description, "StarCount": strconv.Itoa(r.StarCount),
			"IsOfficial": mark(r.IsOfficial, f.format), "IsAutomated": mark(r.IsAutomated, f.format),
		})
	}
	return a.ui.List(t, f.format, rows)
}

// mark is docker's word for yes in a table.
func mark(yes bool, format string) string {
	switch {
	case format == "json":
		return strconv.FormatBool(yes)
	case yes:
		return "[OK]"
	}
	return ""
}

func searchFilter(filters []string) (func(registry.SearchResult) bool, error) {
	tests := []func(registry.SearchResult) bool{}
	for _, s := range filters {
		key, value, _ := strings.Cut(s, "=")
		switch want, err := strconv.ParseBool(value); {
		case key == "stars":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, fmt.Errorf("invalid filter 'stars=%s'", value)
			}
			tests = append(tests, func(r registry.SearchResult) bool { return r.StarCount >= n })
		case key != "is-official" && key != "is-automated":
			return nil, fmt.Errorf("invalid filter '%s'", key)
		case err != nil:
			return nil, fmt.Errorf("invalid filter '%s=%s'", key, value)
		case key == "is-official":
			tests = append(tests, func(r registry.SearchResult) bool { return r.IsOfficial == want })
		default:
			tests = append(tests, func(r registry.SearchResult) bool { return r.IsAutomated == want })
		}
	}
	return func(r registry.SearchResult) bool {
		for _, test := range tests {
			if !test(r) {
				return false
			}
		}
		return true
	}, nil
}
