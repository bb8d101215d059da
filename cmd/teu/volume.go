package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

func isNotFound(err error) bool { return errors.Is(err, errdefs.ErrNotFound) }

func newVolumeCreateCommand(a *app) *cobra.Command {
	var labels []string
	var driver string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if driver != "local" {
				return errors.New("volume driver " + driver + " is not there, only local")
			}
			v, err := a.engine().CreateVolume(cmd.Context(), runner.VolumeOptions{Name: name, Labels: keyValues(labels)})
			if err != nil {
				return err
			}
			a.ui.Println(v.Name)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "set a label: NAME[=VALUE]")
	cmd.Flags().StringVarP(&driver, "driver", "d", "local", "volume driver")
	return cmd
}

func newVolumeLsCommand(a *app) *cobra.Command {
	var quiet bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keyed, err := keyedFilters(filters)
			if err != nil {
				return err
			}
			all, err := a.engine().Volumes(keyed)
			if err != nil {
				return err
			}
			var rows []ui.Row
			for _, v := range all {
				if quiet {
					a.ui.Println(v.Name)
				}
				rows = append(rows, ui.Row{"Driver": v.Driver, "Name": v.Name, "Mountpoint": v.Mountpoint, "Scope": v.Scope, "Labels": joinMap(v.Labels)})
			}
			if quiet {
				return nil
			}
			t := ui.Table{
				Fields: []ui.Field{
					{Name: "Driver", Header: "DRIVER"}, {Name: "Name", Header: "VOLUME NAME"},
					{Name: "Mountpoint", Header: "MOUNTPOINT"}, {Name: "Scope", Header: "SCOPE"}, {Name: "Labels", Header: "LABELS"},
				},
				Default: []string{"Driver", "Name"},
			}
			return a.ui.List(t, format, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "names only")
	f.StringVar(&format, "format", "", "table, json or a template")
	f.StringArrayVarP(&filters, "filter", "f", nil, "name=, label=, dangling=true|false")
	return cmd
}

// keyedFilters sorts docker's --filter KEY=VALUE by key.
func keyedFilters(list []string) (map[string][]string, error) {
	m := map[string][]string{}
	for _, f := range list {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, errors.New("invalid argument \"" + f + "\" for \"-f, --filter\" flag: invalid filter format: missing value")
		}
		m[k] = append(m[k], v)
	}
	return m, nil
}

func joinMap(m map[string]string) string {
	var list []string
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func newVolumeInspectCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Show everything about volumes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return inspectAll(a, format, args, func(name string) (any, error) { return a.engine().Volume(name) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	return cmd
}
