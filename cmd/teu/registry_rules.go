//go:build !front && !porter

package main

import (
	"encoding/json"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/server/registry"
)

func newRegistryRulesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Which tags of a registry stay, go or must not change",
		Long: `Which tags of a registry stay, go or must not change.

Rules are a JSON list; of a tag the first that speaks of it decides. Collections of garbage
remove the tags that are neither among the last pushed (keepLast) nor young enough (maxAge).`,
		Example: `  echo '[{"repositories": "**", "tags": "v*", "immutable": true},
         {"repositories": "**", "tags": "pr-*", "keepLast": 5, "maxAge": "168h"},
         {"repositories": "**", "untagged": true}]' > rules.json
  teu registry rules preview rules.json
  teu registry rules set rules.json
  teu registry rules show`,
	}
	cmd.AddCommand(newRegistryRulesSetCommand(a), newRegistryRulesShowCommand(a), newRegistryRulesPreviewCommand(a))
	return cmd
}

// readRules reads rules from a file, "-" for standard input.
func (a *app) readRules(name string) (registry.Rules, error) {
	var r io.Reader = a.ui.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	return registry.DecodeRules(r)
}

func newRegistryRulesSetCommand(a *app) *cobra.Command {
	var at registryPlace
	cmd := &cobra.Command{
		Use:   "set [OPTIONS] FILE",
		Short: "Replace the rules by those of a file, - for standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := a.readRules(args[0])
			if err != nil {
				return err
			}
			return registry.SetRules(cmd.Context(), at.options(a), rules)
		},
	}
	at.flags(cmd.Flags())
	return cmd
}

func newRegistryRulesShowCommand(a *app) *cobra.Command {
	var at registryPlace
	cmd := &cobra.Command{
		Use:   "show [OPTIONS]",
		Short: "Print the rules",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules, err := registry.ReadRules(cmd.Context(), at.options(a))
			if err != nil {
				return err
			}
			if rules == nil {
				rules = registry.Rules{}
			}
			b, err := json.MarshalIndent(rules, "", "  ")
			if err != nil {
				return err
			}
			a.ui.Println(string(b))
			return nil
		},
	}
	at.flags(cmd.Flags())
	return cmd
}

func newRegistryRulesPreviewCommand(a *app) *cobra.Command {
	var at registryPlace
	var format string
	cmd := &cobra.Command{
		Use:   "preview [OPTIONS] [FILE]",
		Short: "List the tags that the rules, or those of a file, would remove",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := at.options(a)
			rules, err := registry.ReadRules(cmd.Context(), o)
			if len(args) > 0 {
				rules, err = a.readRules(args[0])
			}
			if err != nil {
				return err
			}
			list, err := registry.PreviewRules(cmd.Context(), o, rules)
			if err != nil {
				return err
			}
			var rows []ui.Row
			for _, e := range list {
				rows = append(rows, ui.Row{"Repository": e.Repository, "Tag": e.Tag, "Pushed": showDate(e.Pushed), "Rule": strconv.Itoa(e.Rule)})
			}
			return a.ui.List(columns("Repository", "Tag", "Pushed", "Rule"), format, rows)
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	return cmd
}
