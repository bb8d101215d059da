package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/cgroup"
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

// ociState is the state runtime-spec wants and what runc adds.
type ociState struct {
	*specs.State
	Pid     int       `json:"pid"` // printed although it is 0
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

func stateOf(c *bundle.Container) (ociState, error) {
	s, err := c.State()
	if err != nil {
		return ociState{}, err
	}
	return ociState{s, s.Pid, c.Rootfs, c.Created, c.Owner}, nil
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
		RunE: func(*cobra.Command, []string) error {
			all, err := o.store().All()
			if err != nil {
				return err
			}
			states := []ociState{}
			for _, c := range all {
				s, err := stateOf(c)
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
				return o.printJSON(states)
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
	cmd := o.simple("ps", "List the processes of a container", func(_ context.Context, c *bundle.Container) error {
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		switch format {
		case "json":
			return o.printJSON(pids)
		case "table":
		default:
			return badFormat(format)
		}
		w := tabwriter.NewWriter(o.a.ui.Out, 8, 1, 2, ' ', 0)
		fmt.Fprint(w, "PID\tCMD\n")
		for _, pid := range pids {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil { // else it has ended
				fmt.Fprintf(w, "%d\t%s\n", pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
			}
		}
		return w.Flush()
	})
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

func (o *ociCommand) pause() *cobra.Command {
	return o.simple("pause", "Stop all processes of a container", func(ctx context.Context, c *bundle.Container) error { return c.Pause(ctx) })
}

func (o *ociCommand) resume() *cobra.Command {
	return o.simple("resume", "Let a paused container go on", func(ctx context.Context, c *bundle.Container) error { return c.Resume(ctx) })
}

func (o *ociCommand) update() *cobra.Command {
	var file string
	cmd := o.simple("update", "Change the limits of a container", func(ctx context.Context, c *bundle.Container) error {
		if file == "" {
			return fmt.Errorf("--resources is required: %w", errdefs.ErrInvalidArgument)
		}
		var r specs.LinuxResources
		if err := readJSON(file, &r); err != nil {
			return err
		}
		warnings, err := c.Update(ctx, &r)
		o.warn(warnings)
		return err
	})
	cmd.Flags().StringVarP(&file, "resources", "r", "", "file of the limits in JSON, - for standard input")
	return cmd
}

func (o *ociCommand) events() *cobra.Command {
	var stats bool
	var interval time.Duration
	cmd := o.simple("events", "Print the counters of a container", func(ctx context.Context, c *bundle.Container) error {
		for {
			s, err := c.Stats()
			if err != nil {
				return err
			}
			b, err := json.Marshal(map[string]any{"type": "stats", "id": c.ID, "data": statsData(s)})
			if err != nil {
				return err
			}
			o.a.ui.Printf("%s\n", b)
			if stats {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(interval):
			}
		}
	})
	cmd.Flags().BoolVar(&stats, "stats", false, "print once")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two lines")
	return cmd
}

// statsData has the shape of runc's events, as far as go-runc reads it.
func statsData(s cgroup.Stats) map[string]any {
	return map[string]any{
		"cpu": map[string]any{"usage": map[string]any{"total": s.CPU.Nanoseconds(), "kernel": s.CPUSystem.Nanoseconds(), "user": s.CPUUser.Nanoseconds()},
			"throttling": map[string]any{"throttledTime": s.Throttled.Nanoseconds()}},
		"memory": map[string]any{"cache": s.MemoryCache, "usage": map[string]any{"limit": s.MemoryLimit, "usage": s.MemoryUsage, "max": s.MemoryPeak}},
		"pids":   map[string]any{"current": s.Pids, "limit": s.PidsLimit},
	}
}

func (o *ociCommand) features() *cobra.Command {
	return &cobra.Command{Use: "features", Short: "Print what this runtime can do", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return o.printJSON(bundle.Features()) }}
}

func (o *ociCommand) spec() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "spec [OPTIONS]", Short: "Write a config.json to begin with", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, _, err := spec.New(ocispec.ImageConfig{Cmd: []string{"sh"}}, spec.Options{TTY: true, Hostname: "teu", ReadOnly: true})
			if err != nil {
				return err
			}
			s.Root.Path = "rootfs"
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
	return cmd
}
