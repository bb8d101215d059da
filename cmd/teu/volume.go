//go:build !front && !porter

package main

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

func newVolumeCreateCommand(a *app) *cobra.Command {
	var labels, options []string
	var driver, name string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Example: `  teu volume create data
  teu volume create -o type=tmpfs -o device=tmpfs -o o=size=100m scratch
  teu volume create -o type=nfs -o o=addr=10.0.0.5,rw -o device=:/export share`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && name != "" {
				return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
			}
			if len(args) > 0 {
				name = args[0]
			}
			v, err := a.engine().CreateVolume(cmd.Context(), runner.VolumeOptions{
				Name: name, Driver: driver, DriverOpts: keyValues(options), Labels: keyValues(labels),
			})
			if err != nil {
				return err
			}
			a.ui.Println(v.Name)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "set a label: NAME[=VALUE]")
	check(cmd.Flags(), "label", checkLabel)
	cmd.Flags().StringVarP(&driver, "driver", "d", "local", "local is the only one")
	cmd.Flags().StringArrayVarP(&options, "opt", "o", nil, "type, device or o (options), as mount has them: NAME=VALUE")
	cmd.Flags().StringVar(&name, "name", "", "name of the volume")
	hide(cmd.Flags(), "name")
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
			all, err := a.engine().Volumes(splitFilters(filters))
			if err != nil {
				return err
			}
			slices.SortFunc(all, func(a, b runner.Volume) int { return naturally(a.Name, b.Name) })
			var rows []ui.Row
			for _, v := range all {
				rows = append(rows, volumeRow(v))
			}
			t := ui.Table{
				Fields: []ui.Field{
					{Name: "Driver", Header: "DRIVER"}, {Name: "Name", Header: "VOLUME NAME"},
					{Name: "Mountpoint", Header: "MOUNTPOINT"}, {Name: "Scope", Header: "SCOPE"}, {Name: "Labels", Header: "LABELS"},
					{Name: "Links", Header: "LINKS"}, {Name: "Size", Header: "SIZE"}, {Name: "Availability", Header: "AVAILABILITY"},
					{Name: "Group", Header: "GROUP"}, {Name: "Status", Header: "STATUS"},
				},
				Default: []string{"Driver", "Name"},
			}
			format = listFormat(format, quiet, func(c dockerConfig) string { return c.VolumesFormat })
			if quiet && (format == "" || format == "table") {
				format = "{{.Name}}"
			}
			return a.ui.List(t, format, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "names only")
	f.StringVar(&format, "format", "", "table, json or a template")
	filterVar(f, &filters, "f", "name=, label=, dangling=true|false")
	return cmd
}

func volumeRow(v runner.Volume) ui.Row {
	return ui.Row{
		"Driver": v.Driver, "Name": v.Name, "Mountpoint": v.Mountpoint, "Scope": v.Scope, "Labels": joinMap(v.Labels),
		"Size": "N/A", "Links": "N/A", "Availability": "N/A", "Group": "N/A", "Status": "N/A",
	}
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
			return inspectAll(a, format, args, func(name string) (any, error) { return a.inspectVolume(name) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	return cmd
}

// volumeObject is a volume for templates.
type volumeObject struct{ runner.Volume }

func (a *app) inspectVolume(name string) (any, error) {
	v, err := a.engine().Volume(name)
	return volumeObject{v}, err
}

// ForTemplates has the time as docker's type has it, and what only volumes of a swarm have.
func (v volumeObject) ForTemplates() any {
	return struct {
		runner.Volume
		CreatedAt     string
		ClusterVolume *struct{}      `json:",omitempty"`
		Status        map[string]any `json:",omitempty"`
		UsageData     *struct{}      `json:",omitempty"`
	}{Volume: v.Volume, CreatedAt: v.CreatedAt.Format(time.RFC3339)}
}
