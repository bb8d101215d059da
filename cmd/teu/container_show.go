package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

func newLogsCommand(a *app) *cobra.Command {
	var o runner.LogOptions
	var tail, since, until string
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Show what a container has said",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Tail, err = strconv.Atoi(tail); err != nil { // "all", and whatever else is no number
				o.Tail = -1
			}
			if o.Since, o.Until, err = span(since, until); err != nil {
				return err
			}
			return a.engine().Logs(cmd.Context(), args[0], o, a.ui.Out, a.ui.Err)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on until the container ends")
	f.StringVarP(&tail, "tail", "n", "all", "the last lines only")
	f.StringVar(&since, "since", "", "what was said since a time (2026-01-02T13:23:37Z) or for a while (42m)")
	f.StringVar(&until, "until", "", "what was said before a time or a while ago")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "show when")
	f.BoolVar(&o.Details, "details", false, "show labels and variables that the log options name")
	return cmd
}

// span reads the flags --since and --until.
func span(since, until string) (from, to time.Time, err error) {
	now := time.Now()
	if from, err = runner.ParseTime(since, now); err != nil {
		return from, to, fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if to, err = runner.ParseTime(until, now); err != nil {
		return from, to, fmt.Errorf("invalid value for \"until\": %w", err)
	}
	return from, to, nil
}

func newTopCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Show the processes of a container",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			titles, rows, err := a.engine().Top(cmd.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.ui.Out, 20, 1, 3, ' ', 0)
			for _, row := range append([][]string{titles}, rows...) {
				for i, cell := range row {
					row[i] = ui.Visible(cell)
				}
				io.WriteString(w, strings.Join(row, "\t")+"\n")
			}
			return w.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newPortCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PORT[/PROTOCOL]]",
		Short: "Show where ports are published",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.engine().Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			want := ""
			if len(args) == 2 {
				want = args[1]
				if !strings.Contains(want, "/") {
					want += "/tcp"
				}
			}
			ports := a.engine().Ports(c)
			slices.SortFunc(ports, func(a, b network.Port) int {
				return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Protocol, b.Protocol), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
			})
			found := false
			for _, p := range ports {
				name := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
				for _, address := range hostAddresses(p) {
					switch where := fmt.Sprintf("%s:%d", address, p.HostPort); {
					case want == "":
						a.ui.Printf("%s -> %s\n", name, where)
					case want == name:
						a.ui.Println(where)
						found = true
					}
				}
			}
			if want != "" && !found {
				return fmt.Errorf("no public port '%s' published for %s", want, args[0])
			}
			return nil
		},
	}
}
