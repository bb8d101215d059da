package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/outfile"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
)

func newDiffCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Show what a container has changed of its image's files",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := a.engine().Changes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, c := range changes {
				path := c.Path
				if a.ui.OutTerminal() {
					path = ui.Visible(path)
				}
				a.ui.Println(c.Kind, path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "accepted for docker's sake")
	hide(cmd.Flags(), "format")
	return cmd
}

func newCommitCommand(a *app) *cobra.Command {
	var o runner.CommitOptions
	var noPause bool
	cmd := &cobra.Command{
		Use:     "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short:   "Make an image of what a container has changed",
		Example: `  teu commit -c 'CMD ["serve"]' -m "with my settings" web registry.example/web:tuned`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				o.Name = args[1]
			}
			switch {
			case noPause && cmd.Flags().Changed("pause"):
				return errors.New("conflicting options: --no-pause and --pause cannot be used together")
			case noPause:
				o.Pause = false
			}
			id, err := a.engine().Commit(cmd.Context(), args[0], o)
			if err == nil {
				a.ui.Println(id)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", "who made it")
	f.StringVarP(&o.Comment, "message", "m", "", "comment")
	listVar(f, &o.Changes, "change", "c", "instruction of a Dockerfile that changes the configuration")
	f.BoolVarP(&o.Pause, "pause", "p", true, "pause the container meanwhile")
	f.BoolVar(&noPause, "no-pause", false, "do not pause the container meanwhile")
	return cmd
}

func newExportCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Write a container's root filesystem as a tar archive",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				if a.ui.OutTerminal() {
					return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
				}
				return a.engine().Export(cmd.Context(), args[0], a.ui.Out)
			}
			return exportFile(cmd, a, args[0], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to a file instead of standard output")
	return cmd
}

// checkArchive refuses a place for an archive where none can be.
func checkArchive(output string) error {
	if fi, err := os.Stat(output); err == nil && fi.IsDir() {
		return fmt.Errorf("%q is a directory", output)
	}
	if _, err := os.Stat(filepath.Dir(output)); err != nil {
		return fmt.Errorf("invalid output path: %w", err)
	}
	return nil
}

// exportFile gives the file its name when it is whole.
func exportFile(cmd *cobra.Command, a *app, ref, output string) error {
	if err := checkArchive(output); err != nil {
		return fmt.Errorf("failed to export container: %w", err)
	}
	return outfile.Write(output, 0o600, func(w io.Writer) error { return a.engine().Export(cmd.Context(), ref, w) })
}
