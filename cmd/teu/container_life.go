package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// errWasGone says that there was nothing to do, which is as good, and no name to print.
var errWasGone = errors.New("was gone already")

// forEach does something with every container named and prints the names of those it was
// done with, as docker does. It goes on after a failure and exits with 1.
func forEach(a *app, refs []string, f func(ref string) error) error {
	failed, err := try(a, refs, f)
	if err == nil && len(failed) > 0 {
		return &exitError{code: exitFailure}
	}
	return err
}

// try is forEach, but returns those that it could not be done with.
func try(a *app, refs []string, f func(ref string) error) (failed []string, _ error) {
	for _, ref := range refs {
		err := f(ref)
		if errors.Is(err, errWasGone) {
			continue
		}
		if errors.Is(err, context.Canceled) {
			return failed, context.Canceled
		}
		if err != nil {
			a.ui.Error(err)
			failed = append(failed, ref)
			continue
		}
		a.ui.Println(ref)
	}
	return failed, nil
}

func newStartCommand(a *app) *cobra.Command {
	var attach, interactive bool
	var detach string
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start containers that do not run",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !attach && !interactive {
				failed, err := try(a, args, func(ref string) error {
					_, err := a.engine().Start(cmd.Context(), ref, runner.StartOptions{})
					return err
				})
				if err == nil && len(failed) > 0 {
					err = fmt.Errorf("failed to start containers: %s", strings.Join(failed, ", "))
				}
				return err
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			keys, err := detachKeys(detach, true)
			if err != nil {
				return err
			}
			return startAttached(cmd.Context(), a, args[0], interactive, keys)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "attach to the output")
	f.BoolVarP(&interactive, "interactive", "i", false, "attach to standard input too")
	f.StringVar(&detach, "detach-keys", "", "keys that detach (default ctrl-p,ctrl-q)")
	return cmd
}

func startAttached(ctx context.Context, a *app, ref string, interactive bool, keys []byte) error {
	c, err := a.engine().Get(ctx, ref)
	if err != nil {
		return err
	}
	var signals *signalProxy
	if !c.Options.TTY {
		signals = catchSignals(false)
	}
	o := runner.StartOptions{Attach: &keeper.AttachOptions{
		Stdin: interactive && c.Options.OpenStdin, Stdout: true, Stderr: !c.Options.TTY,
	}}
	if c.Options.TTY && a.ui.OutTerminal() {
		columns, rows := a.ui.Size()
		o.Columns, o.Rows = uint16(columns), uint16(rows)
	}
	session, err := a.engine().Start(context.WithoutCancel(ctx), c.ID, o)
	if err != nil {
		return engineFailure(err)
	}
	t := attached{a: a, session: session, id: c.ID, tty: c.Options.TTY, stdin: o.Attach.Stdin, keys: keys, signals: signals}
	return t.run(ctx)
}

// stopFlags are those of stop and restart.
type stopFlags struct {
	seconds int
	signal  string
}

func (s *stopFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&s.seconds, "timeout", "t", 0, "seconds to wait before it is killed, -1 for ever (default 10)")
	cmd.Flags().IntVar(&s.seconds, "time", 0, "the same as --timeout")
	hide(cmd.Flags(), "time")
	cmd.Flags().StringVarP(&s.signal, "signal", "s", "", "signal to send")
}

func (s *stopFlags) options(cmd *cobra.Command) runner.StopOptions {
	o := runner.StopOptions{Signal: s.signal}
	if cmd.Flags().Changed("time") || cmd.Flags().Changed("timeout") {
		d := time.Duration(s.seconds) * time.Second
		o.Timeout = &d
	}
	return o
}

func newStopCommand(a *app) *cobra.Command {
	var s stopFlags
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop running containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(ref string) error {
				return a.engine().Stop(cmd.Context(), ref, s.options(cmd))
			})
		},
	}
	s.add(cmd)
	return cmd
}

func newRestartCommand(a *app) *cobra.Command {
	var s stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(ref string) error {
				return a.engine().Restart(cmd.Context(), ref, s.options(cmd))
			})
		},
	}
	s.add(cmd)
	return cmd
}

func newKillCommand(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Send a signal to running containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(ref string) error {
				return a.engine().Kill(cmd.Context(), ref, signal)
			})
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "signal to send (default SIGKILL)")
	return cmd
}

func newRmCommand(a *app) *cobra.Command {
	var o runner.RemoveOptions
	var link bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: []string{"remove"},
		Short:   "Remove containers",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if link { // what is named is no container then
				return errors.New("--link: links end with their container and cannot be removed")
			}
			return forEach(a, args, func(ref string) error {
				err := a.engine().Remove(cmd.Context(), ref, o)
				if o.Force && errors.Is(err, errdefs.ErrNotFound) {
					return errWasGone
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "kill the container if it runs")
	cmd.Flags().BoolVarP(&link, "link", "l", false, "not there: there are no links to remove")
	hide(cmd.Flags(), "link")
	cmd.Flags().BoolVarP(&o.Volumes, "volumes", "v", false, "remove its anonymous volumes too")
	return cmd
}

// newContainerVerb is a command that does one thing with each container named.
func newContainerVerb(a *app, use, short string, f func(e *runner.Engine, ctx context.Context, ref string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " CONTAINER [CONTAINER...]",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(ref string) error { return f(a.engine(), cmd.Context(), ref) })
		},
	}
}

func newPauseCommand(a *app) *cobra.Command {
	return newContainerVerb(a, "pause", "Freeze all processes of containers", (*runner.Engine).Pause)
}

func newUnpauseCommand(a *app) *cobra.Command {
	return newContainerVerb(a, "unpause", "Let paused containers go on", (*runner.Engine).Unpause)
}

func newRenameCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NAME",
		Short: "Give a container another name",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.engine().Rename(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("failed to rename container: %w", err)
			}
			return nil
		},
	}
}

func newWaitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Wait for containers to end and print their exit codes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			failed := false
			for _, ref := range args {
				status, err := a.engine().Wait(cmd.Context(), ref)
				if errors.Is(err, context.Canceled) {
					return context.Canceled
				}
				if err != nil {
					a.ui.Error(err)
					failed = true
					continue
				}
				a.ui.Println(status.Code)
			}
			if failed {
				return &exitError{code: exitFailure}
			}
			return nil
		},
	}
}

func newAttachCommand(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var detach string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach to the streams of a running container",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			keys, err := detachKeys(detach, true)
			if err != nil {
				return err
			}
			c, err := a.engine().Get(ctx, args[0])
			if err != nil {
				return err
			}
			tty, stdin := c.Options.TTY, c.Options.OpenStdin && !noStdin
			if tty && stdin && !a.ui.InTerminal() {
				return errors.New("the input device is not a TTY")
			}
			var signals *signalProxy
			if sigProxy && !tty {
				signals = catchSignals(false)
			}
			session, err := a.engine().Attach(ctx, c.ID, keeper.AttachOptions{Stdin: stdin, Stdout: true, Stderr: !tty})
			if err != nil {
				return err
			}
			t := attached{a: a, session: session, id: c.ID, tty: tty, stdin: stdin, keys: keys, signals: signals, attachedLater: true}
			return t.run(ctx)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "do not attach to standard input")
	f.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the container")
	f.StringVar(&detach, "detach-keys", "", "keys that detach (default ctrl-p,ctrl-q)")
	return cmd
}

// newContainerFinishCommand is what keepers execute after the end of a container.
func newContainerFinishCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "finish ID",
		Short:  "Clean up after a container that has ended",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().Finish(cmd.Context(), args[0])
		},
	}
}
