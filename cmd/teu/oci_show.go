package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/spec"
)

func (o *ociCommand) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	o.a.ui.Printf("%s\n", b)
	return nil
}

// ociState is the state runtime-spec wants and what runc adds, in runc's order: some
// scripts look at the text.
type ociState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"` // printed although it is 0
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func stateOf(c *bundle.Container) (ociState, error) {
	s, err := c.State()
	if err != nil {
		return ociState{}, err
	}
	return ociState{s.Version, s.ID, s.Pid, s.Status, s.Bundle, c.Rootfs, c.Created, s.Annotations, ownerName(c.Owner)}, nil
}

// ownerName is the name of a user of the host, or #UID.
func ownerName(uid string) string {
	if uid == "0" { // without reading a file
		return "root"
	}
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}

func (o *ociCommand) state() *cobra.Command {
	return o.simple("state", "Print the state of a container", func(_ context.Context, c *bundle.Container) error {
		s, err := stateOf(c)
		if err != nil {
			return err
		}
		return o.printJSON(s)
	})
}

func (o *ociCommand) list() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{Use: "list [OPTIONS]", Short: "List containers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Parent().Flags().Changed("root") { // else there are just none yet
				if _, err := os.Stat(o.root); err != nil {
					return err
				}
			}
			all, err := o.store().All()
			if err != nil {
				return err
			}
			states := []ociState{}
			for _, c := range all {
				s, err := stateOf(c)
				if errdefs.IsNotFound(err) { // removed meanwhile
					continue
				}
				if err != nil {
					return err
				}
				states = append(states, s)
			}
			switch {
			case quiet:
				for _, s := range states {
					o.a.ui.Println(s.ID)
				}
				return nil
			case format == "json":
				return o.a.ui.JSONLine(states)
			case format != "table":
				return badFormat(format)
			}
			w := tabwriter.NewWriter(o.a.ui.Out, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
			}
			return w.Flush()
		}}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	return cmd
}

func badFormat(format string) error {
	return fmt.Errorf("--format is table or json, not %q: %w", format, errdefs.ErrInvalidArgument)
}

func (o *ociCommand) ps() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "ps [OPTIONS] CONTAINER [PS OPTIONS]", Short: "List the processes of a container", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.container(args)
			if err != nil {
				return err
			}
			pids, err := c.Pids()
			if err != nil {
				return err
			}
			switch format {
			case "json":
				return o.printJSON(pids)
			case "table":
				return o.printProcesses(cmd.Context(), pids, args[1:])
			}
			return badFormat(format)
		}}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

// printProcesses prints what the host's ps(1) says about pids.
func (o *ociCommand) printProcesses(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return fmt.Errorf("ps %s: %w", strings.Join(options, " "), err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s prints no PID: %w", strings.Join(options, " "), errdefs.ErrInvalidArgument)
	}
	o.a.ui.Println(lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			o.a.ui.Println(line)
		}
	}
	return nil
}

func (o *ociCommand) checkpoint() *cobra.Command { return o.unsupported("checkpoint") }

func (o *ociCommand) restore() *cobra.Command { return o.unsupported("restore") }

// unsupported is a command of runc that says plainly that it cannot be had.
func (o *ociCommand) unsupported(name string) *cobra.Command {
	return &cobra.Command{Use: name, Short: "Not supported", Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%s: checkpoints (CRIU) are not supported: %w", name, errdefs.ErrNotImplemented)
		}}
}

func (o *ociCommand) pause() *cobra.Command {
	return o.simple("pause", "Stop all processes of a container", func(ctx context.Context, c *bundle.Container) error { return c.Pause(ctx) })
}

func (o *ociCommand) resume() *cobra.Command {
	return o.simple("resume", "Let a paused container go on", func(ctx context.Context, c *bundle.Container) error { return c.Resume(ctx) })
}

func (o *ociCommand) features() *cobra.Command {
	return &cobra.Command{Use: "features", Short: "Print what this runtime can do", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return o.printJSON(bundle.Features()) }}
}

func (o *ociCommand) spec() *cobra.Command {
	var dir string
	var rootless bool
	cmd := &cobra.Command{Use: "spec [OPTIONS]", Short: "Write a config.json to begin with", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := bundle.Example()
			if err != nil {
				return err
			}
			if rootless {
				spec.Rootless(s, uint32(os.Geteuid()), uint32(os.Getegid()))
			}
			b, err := json.MarshalIndent(s, "", "\t")
			if err != nil {
				return err
			}
			f, err := os.OpenFile(filepath.Join(dir, "config.json"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if err != nil {
				return err
			}
			_, err = f.Write(append(b, '\n'))
			return errors.Join(err, f.Close())
		}}
	cmd.Flags().StringVarP(&dir, "bundle", "b", ".", "directory of the bundle")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "for a user who is not root")
	return cmd
}
