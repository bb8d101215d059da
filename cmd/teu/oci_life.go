package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/launch"
)

// ociCreate are the flags of create and run.
type ociCreate struct {
	ociStdio
	bundle                string
	noPivot, noNewKeyring bool
}

func (c *ociCreate) flags(cmd *cobra.Command) {
	c.ociStdio.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&c.bundle, "bundle", "b", ".", "directory of the bundle")
	f.BoolVar(&c.noPivot, "no-pivot", false, "enter the root by chroot instead of pivot_root")
	f.BoolVar(&c.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
}

func (o *ociCommand) createContainer(ctx context.Context, id string, f *ociCreate, terminal func(*os.File)) (*bundle.Container, error) {
	none, systemd, err := o.cgroups()
	if err != nil {
		return nil, err
	}
	stdio, env, err := f.stdio(o.a)
	if err != nil {
		return nil, err
	}
	stdio.Terminal = terminal
	c, warnings, err := o.store().Create(ctx, id, f.bundle, bundle.CreateOptions{
		Stdio: stdio, Env: env, NoCgroup: none, Systemd: systemd, Rootless: o.isRootless(), Owner: strconv.Itoa(os.Geteuid()),
		Notify: os.Getenv("NOTIFY_SOCKET") != "", NoPivot: f.noPivot, SharedKeyring: f.noNewKeyring, KeepGroups: o.keepGroups})
	if err != nil { // podman wants this to be all there is in the log
		return nil, err
	}
	o.warn(warnings)
	return c, nil
}

func (o *ociCommand) create() *cobra.Command {
	var f ociCreate
	cmd := &cobra.Command{Use: "create [OPTIONS] CONTAINER", Short: "Create a container, whose command waits for start", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := o.createContainer(untilSignal(cmd.Context()), args[0], &f, nil)
			return err
		}}
	f.flags(cmd)
	return cmd
}

func (o *ociCommand) start() *cobra.Command {
	return o.simple("start", "Execute the command of a created container",
		func(ctx context.Context, c *bundle.Container) error { return startAndNotify(ctx, c, true) })
}

func (o *ociCommand) run() *cobra.Command {
	var f ociCreate
	var detach, keep bool
	cmd := &cobra.Command{Use: "run [OPTIONS] CONTAINER", Short: "Create and start a container", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := untilSignal(cmd.Context())
			if !detach {
				return o.foreground(ctx, args[0], &f, keep)
			}
			c, err := o.createContainer(ctx, args[0], &f, nil)
			if err != nil {
				return err
			}
			return o.startOrDelete(ctx, c, true)
		}}
	f.flags(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait for the container")
	cmd.Flags().BoolVar(&keep, "keep", false, "do not delete the container at its end")
	return cmd
}

// startAndNotify starts a container and passes on to systemd that it is ready, which it waits for or
// does beside.
func startAndNotify(ctx context.Context, c *bundle.Container, wait bool) error {
	n, err := c.Notifier(os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		err = c.Start(ctx)
	}
	switch {
	case err == nil && n != nil && !wait:
		go n.Pass(ctx) // to our end, which is that of the container
		return nil
	case err == nil && n != nil:
		err = n.Pass(ctx)
	}
	return errors.Join(err, n.Close())
}

func (o *ociCommand) startOrDelete(ctx context.Context, c *bundle.Container, wait bool) error {
	if err := startAndNotify(ctx, c, wait); err != nil {
		return errors.Join(err, o.remove(ctx, c))
	}
	return nil
}

// remove removes a container whatever it does.
func (o *ociCommand) remove(ctx context.Context, c *bundle.Container) error {
	warnings, err := c.Delete(context.WithoutCancel(ctx), bundle.DeleteOptions{Force: true})
	o.warn(warnings)
	return err
}

// foreground runs a container to its end.
func (o *ociCommand) foreground(ctx context.Context, id string, f *ociCreate, keep bool) error {
	fg, err := newForeground(o.a)
	if err != nil {
		return err
	}
	defer fg.close()
	c, err := o.createContainer(ctx, id, f, fg.terminal)
	if err != nil {
		return err
	}
	if err := o.startOrDelete(ctx, c, false); err != nil {
		return err
	}
	code, err := fg.wait(c.Init)
	if !keep {
		err = errors.Join(err, o.remove(ctx, c))
	}
	if err != nil {
		return err
	}
	return exitWith(code)
}

// exitWith ends teu as a process of a container did.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// foreground waits for a process that is no child when it is started: teu takes the place
// that a supervisor has otherwise.
type foreground struct {
	a       *app
	signals chan os.Signal
	console *console
}

func newForeground(a *app) (*foreground, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming a subreaper: %w", err)
	}
	f := &foreground{a: a, signals: make(chan os.Signal, 16)}
	signal.Notify(f.signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	return f, nil
}

// wait passes signals on until the process has ended, and reaps it.
func (f *foreground) wait(id statefile.Process) (int, error) {
	fd, err := unix.PidfdOpen(id.PID, 0) // ours, and not reaped: the number is good
	if err != nil {
		return 0, fmt.Errorf("pidfd of process %d: %w", id.PID, err)
	}
	child := launch.Child{PID: id.PID, PIDFD: os.NewFile(uintptr(fd), "pidfd")}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-f.signals:
				if s == unix.SIGWINCH {
					f.console.resize()
					continue
				}
				child.Signal(s) // it may have ended
			case <-done:
				return
			}
		}
	}()
	exit, err := child.Wait()
	close(done)
	f.console.drain()
	return exit.Code, err
}

func (f *foreground) terminal(master *os.File) { f.console = newConsole(f.a, master) }

func (f *foreground) close() {
	signal.Stop(f.signals)
	f.console.close()
}

func (o *ociCommand) kill() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "kill [OPTIONS] CONTAINER [SIGNAL]", Short: "Send a signal to a container", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := o.container(args)
			if err != nil {
				return err
			}
			sig := unix.SIGTERM
			if len(args) == 2 {
				if sig, err = signalNamed(args[1]); err != nil {
					return err
				}
			}
			return c.Kill(sig, bundle.KillOptions{All: all})
		}}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "signal every process of the container")
	return cmd
}

func signalNamed(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q: %w", s, errdefs.ErrInvalidArgument)
}

func (o *ociCommand) delete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete [OPTIONS] CONTAINER", Short: "Remove a container", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.container(args)
			if err == nil {
				var warnings []string
				warnings, err = c.Delete(cmd.Context(), bundle.DeleteOptions{Force: force})
				o.warn(warnings)
			}
			if force && errdefs.IsNotFound(err) {
				return nil
			}
			return err
		}}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it if it runs; one that does not exist is no error")
	return cmd
}
