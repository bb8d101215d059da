package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// runFlags are what run has beyond create.
type runFlags struct {
	containerFlags
	detach, explain, sigProxy bool
	detachKeys                string
}

func newRunCommand(a *app) *cobra.Command {
	var c runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Example: `  teu run --rm -it busybox
  teu run -d --name web -p 8080:80 --restart always registry.example/web
  teu run --rm -v "$PWD":/src -w /src registry.example/tools make`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return engineFailure(runContainer(cmd, a, &c, args))
		},
	}
	f := cmd.Flags()
	f.BoolVar(new(bool), "help", false, "") // -h is the host name
	hide(f, "help")
	c.add(f)
	f.BoolVarP(&c.detach, "detach", "d", false, "run in the background and print the container's ID")
	f.BoolVar(&c.explain, "explain", false, "print the steps of the start and do not start")
	f.BoolVar(&c.sigProxy, "sig-proxy", true, "pass signals on to the container")
	f.StringVar(&c.detachKeys, "detach-keys", "", "keys that detach (default ctrl-p,ctrl-q)")
	f.SetInterspersed(false) // flags after the image are those of the command
	return cmd
}

// engineFailure gives an error docker's exit code, unless it has one.
func engineFailure(err error) error {
	var exit *exitError
	var failed *keeper.LaunchError
	switch {
	case err == nil || errors.As(err, &exit):
		return err
	case errors.As(err, &failed):
		return withExitCode(failed.Code, err)
	case isOutput(err):
		return withExitCode(exitFailure, err)
	}
	return withExitCode(exitEngine, err)
}

func newCreateCommand(a *app) *cobra.Command {
	var c containerFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.options(cmd.Flags(), args[0], args[1:])
			if errdefs.IsInvalidArgument(err) {
				return err
			}
			if err != nil {
				return withExitCode(exitEngine, err)
			}
			setAttach(&o, c.attach, false)
			made, err := createContainer(cmd.Context(), a, &c, o)
			if err != nil {
				return err
			}
			a.ui.Println(made.ID)
			return nil
		},
	}
	cmd.Flags().BoolVar(new(bool), "help", false, "")
	hide(cmd.Flags(), "help")
	c.add(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// setAttach notes which streams the container's starter will be attached to.
func setAttach(o *runner.Options, streams []string, detach bool) {
	all := len(streams) == 0 && !detach
	has := func(name string) bool {
		return all || slices.ContainsFunc(streams, func(s string) bool { return strings.EqualFold(s, name) })
	}
	o.AttachStdin = o.OpenStdin && has("stdin")
	o.AttachStdout, o.AttachStderr = has("stdout"), has("stderr")
	o.StdinOnce = o.AttachStdin
}

// createContainer pulls the image if it must and makes the container.
func createContainer(ctx context.Context, a *app, c *containerFlags, o runner.Options) (*runner.Container, error) {
	if c.cidfile != "" {
		if _, err := os.Stat(c.cidfile); err == nil {
			return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", c.cidfile)
		}
	}
	switch c.pull {
	case "always":
		if err := a.pullForRun(ctx, o.Image, o.Platform, c.quiet); err != nil {
			return nil, err
		}
	case "missing", "never", "":
	default:
		return nil, withExitCode(exitEngine, fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", c.pull))
	}
	if err := a.injectCDI(&o); err != nil {
		return nil, err
	}
	missing := func(err error) bool { return errors.Is(err, errdefs.ErrNotFound) && a.imageMissing(ctx, o.Image, err) }
	made, err := a.engine().Create(ctx, c.name, o)
	if c.pull != "never" && missing(err) {
		a.ui.Notef("Unable to find image '%s' locally", runner.WithTag(listing.Familiar(o.Image)))
		if err := a.pullForRun(ctx, o.Image, o.Platform, c.quiet); err != nil {
			return nil, err
		}
		made, err = a.engine().Create(ctx, c.name, o)
	}
	if missing(err) && !errors.Is(err, runner.ErrPlatform) { // or somebody has removed it again
		return nil, fmt.Errorf("No such image: %s", runner.WithTag(listing.Familiar(o.Image))) //lint:ignore ST1005 docker's words
	}
	if err != nil {
		return nil, err
	}
	for _, w := range o.Warnings() {
		a.ui.Warnf("%s", w)
	}
	if c.cidfile != "" {
		if err := os.WriteFile(c.cidfile, []byte(made.ID), 0o666); err != nil {
			return nil, fmt.Errorf("failed to create the container ID file: %w", err)
		}
	}
	return made, nil
}

func runContainer(cmd *cobra.Command, a *app, c *runFlags, args []string) error {
	ctx := cmd.Context()
	o, err := c.options(cmd.Flags(), args[0], args[1:])
	if err != nil {
		return err
	}
	if c.detach && len(c.attach) > 0 {
		return withExitCode(exitFailure, errors.New("conflicting options: cannot specify both --attach and --detach"))
	}
	if c.tty && c.interactive && !c.detach && !a.ui.InTerminal() {
		return withExitCode(exitFailure, errors.New("the input device is not a TTY"))
	}
	keys, err := detachKeys(c.detachKeys, c.tty)
	if err != nil {
		return err
	}
	setAttach(&o, c.attach, c.detach)
	o.Starting = true
	// Signals are caught from here on, so that none is lost between start and attach.
	var signals *signalProxy
	if !c.detach && c.sigProxy {
		signals = catchSignals(c.tty)
		ctx = context.WithoutCancel(ctx)
	}
	e := a.engine()
	e.WarmUp()
	made, err := createContainer(ctx, a, &c.containerFlags, o)
	if err != nil {
		return err
	}
	if c.explain {
		text, err := e.Explain(ctx, made.ID)
		a.ui.Printf("%s", text)
		return errors.Join(err, e.Remove(ctx, made.ID, runner.RemoveOptions{Volumes: true}))
	}
	return startNew(ctx, a, c, made, signals, keys)
}

// startNew starts a container that run has made.
func startNew(ctx context.Context, a *app, c *runFlags, made *runner.Container, signals *signalProxy, keys []byte) error {
	e, o := a.engine(), &made.Options
	so := runner.StartOptions{Warn: func(line string) { a.ui.Warnf("%s", line) }}
	if !c.detach {
		so.Attach = &keeper.AttachOptions{Stdin: o.AttachStdin, Stdout: o.AttachStdout, Stderr: o.AttachStderr && !o.TTY}
	}
	if o.TTY && a.ui.OutTerminal() {
		columns, rows := a.ui.Size()
		so.Columns, so.Rows = uint16(columns), uint16(rows)
	}
	if c.detach { // before the start, as docker: it is the ID of what stays if that fails
		a.ui.Println(made.ID)
	}
	session, err := e.Start(ctx, made.ID, so)
	if err != nil {
		if o.AutoRemove {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, e.Remove(undo, made.ID, runner.RemoveOptions{Force: true, Volumes: true}))
		}
		return err
	}
	if c.detach {
		return nil
	}
	if !o.AttachStdout && !o.AttachStderr {
		a.ui.Println(made.ID) // nothing else tells it
	}
	t := attached{a: a, session: session, id: made.ID, tty: o.TTY, stdin: o.AttachStdin, keys: keys, signals: signals}
	return t.run(ctx)
}
