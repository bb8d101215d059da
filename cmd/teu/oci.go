package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/userns"
)

// ociCommand are the global options of teu as an OCI runtime, which are runc's.
type ociCommand struct {
	a         *app
	root      string
	log       string
	logFormat string
	debug     bool
	systemd   bool
	manager   string
	rootless  string
	criu      string
	version   bool
	// keepGroups obeys an annotation that an image can have.
	keepGroups bool
}

// ociName reports whether teu was called by a name that means "teu oci".
func ociName(name string) bool {
	base := filepath.Base(name)
	return base == "teu-oci" || base == "runc"
}

func newOCICommand(a *app) *cobra.Command {
	o := &ociCommand{a: a}
	cmd := &cobra.Command{
		Use:   "oci [OPTIONS] COMMAND",
		Short: "Run bundles as an OCI runtime, with runc's command line",
		Long: `Run bundles as an OCI runtime, with runc's command line.

podman, containerd, docker and CRI-O take teu as their runtime through a link to it that is
called teu-oci (or runc).`,
		Example: `  ln -s teu /usr/local/bin/teu-oci && podman --runtime /usr/local/bin/teu-oci run alpine
  teu oci run --bundle ./bundle test`,
		TraverseChildren: true,
		Args:             cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.version:
				a.ui.Printf("%s", ociVersion())
				return nil
			case len(args) == 0:
				return cmd.Help()
			}
			return o.logged(unknownCommand(cmd, args[0]))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.root, "root", defaultOCIRoot(), "directory of the containers' state")
	f.StringVar(&o.log, "log", "", "file that errors are appended to")
	f.StringVar(&o.logFormat, "log-format", "text", "format of the log: text or json")
	f.BoolVar(&o.debug, "debug", false, "accepted as runc does")
	f.BoolVar(&o.systemd, "systemd-cgroup", false, "make control groups by systemd")
	f.StringVar(&o.manager, "cgroup-manager", "cgroupfs", "cgroupfs, systemd or disabled, as crun's")
	f.StringVar(&o.rootless, "rootless", "auto", "true, false or auto: whether control groups may lack")
	f.StringVar(&o.criu, "criu", "", "accepted as runc does")
	f.BoolVar(&o.keepGroups, "keep-groups", false, "keep the caller's groups where the annotation run.oci.keep_original_groups asks for it")
	f.BoolVarP(&o.version, "version", "v", false, "show the version")
	for _, sub := range o.commands() {
		// As runc: options may follow the container, unless a command does.
		sub.Flags().SetInterspersed(sub.Name() != "exec" && sub.Name() != "ps")
		sub.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
			return o.logged(&usageError{command: c.CommandPath(), err: err})
		})
		if run := sub.RunE; run != nil {
			sub.RunE = func(c *cobra.Command, args []string) error {
				if !cmd.Flags().Changed("root") && sub.Name() != "features" && sub.Name() != "spec" {
					if err := ownOCIRoot(o.root); err != nil {
						return o.logged(err)
					}
				}
				return o.logged(run(c, args))
			}
		}
		cmd.AddCommand(sub)
	}
	return cmd
}

// commands are those below oci that the arguments may mean: all, unless one is named. To
// make them all takes longer than most of them do.
func (o *ociCommand) commands() (list []*cobra.Command) {
	type sub struct {
		name string
		make func() *cobra.Command
	}
	all := []sub{{"create", o.create}, {"start", o.start}, {"state", o.state}, {"kill", o.kill}, {"delete", o.delete},
		{"run", o.run}, {"exec", o.exec}, {"list", o.list}, {"ps", o.ps}, {"pause", o.pause}, {"resume", o.resume},
		{"update", o.update}, {"events", o.events}, {"features", o.features}, {"spec", o.spec},
		{"checkpoint", o.checkpoint}, {"restore", o.restore}}
	named := slices.ContainsFunc(all, func(c sub) bool { return slices.Contains(o.a.words, c.name) })
	for _, c := range all {
		if !named || slices.Contains(o.a.words, c.name) {
			list = append(list, c.make())
		}
	}
	return list
}

// defaultOCIRoot is root's, or that of the user who is root of a user namespace only: podman
// calls its runtime there. As for runc, who says to be root (su, sudo) is taken at his word.
func defaultOCIRoot() string {
	user := os.Geteuid() != 0
	if !user && os.Getenv("XDG_RUNTIME_DIR") != "" && os.Getenv("USER") != "root" {
		user = userns.Inside()
	}
	if !user {
		return rootsOCIRoot
	}
	return filepath.Join(envOr("XDG_RUNTIME_DIR", fmt.Sprintf("/tmp/teu-%d", os.Geteuid())), "teu-oci")
}

const rootsOCIRoot = "/run/teu-oci"

// ownOCIRoot refuses a default directory that somebody else has made, as in /tmp: what is in it says which programs are
// executed as hooks, and which processes get signals.
func ownOCIRoot(dir string) error {
	if dir == rootsOCIRoot {
		return nil
	}
	if err := userns.OwnDir(dir); err != nil {
		return fmt.Errorf("%w; set XDG_RUNTIME_DIR or --root to a directory that does", err)
	}
	return nil
}

// ociVersion is what callers parse: go-runc wants the first word to be runc's.
func ociVersion() string {
	return fmt.Sprintf("runc version 1.2.0+teu.%s\ncommit: teu-%s\nspec: %s\ngo: %s\n", version(), version(), specs.Version, runtime.Version())
}

func (o *ociCommand) store() *bundle.Store { return bundle.Open(o.root, o.a.keeper) }

// cgroups says who makes control groups: nobody, systemd or we.
func (o *ociCommand) cgroups() (none, systemd bool, err error) {
	switch o.manager {
	case "cgroupfs", "systemd", "disabled":
		return o.manager == "disabled", o.systemd || o.manager == "systemd", nil
	}
	return false, false, fmt.Errorf("--cgroup-manager %q: it is cgroupfs, systemd or disabled: %w", o.manager, errdefs.ErrInvalidArgument)
}

// isRootless says that control groups may be out of reach: we are not root, or only that
// of a user namespace.
func (o *ociCommand) isRootless() bool {
	if o.rootless != "auto" {
		return o.rootless == "true"
	}
	m, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() != 0 || err != nil || strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295"
}

// logged appends an error to the file that callers look into.
func (o *ociCommand) logged(err error) error {
	var exit *exitError
	if err == nil || o.log == "" || (errors.As(err, &exit) && exit.err == nil) {
		return err
	}
	return errors.Join(err, o.appendLog("error", err.Error()))
}

// appendLog adds a line to the log.
func (o *ociCommand) appendLog(level, message string) error {
	now := time.Now().UTC().Format(time.RFC3339)
	line := fmt.Appendf(nil, "time=%q level=%s msg=%q\n", now, level, message)
	if o.logFormat == "json" {
		if b, err := json.Marshal(map[string]string{"level": level, "msg": message, "time": now}); err == nil {
			line = append(b, '\n')
		}
	}
	f, err := os.OpenFile(o.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// container returns the container that is named by the first argument.
func (o *ociCommand) container(args []string) (*bundle.Container, error) {
	return o.store().Get(args[0])
}

// stdio are the flags of commands that start a process.
type ociStdio struct {
	pidFile, console string
	pidfdSocket      string
	preserve         int
}

func (s *ociStdio) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.pidFile, "pid-file", "", "file for the process id")
	f.StringVar(&s.console, "console-socket", "", "socket that gets the terminal")
	f.StringVar(&s.pidfdSocket, "pidfd-socket", "", "socket that gets a pidfd of the process")
	f.IntVar(&s.preserve, "preserve-fds", 0, "pass this many more descriptors")
}

// stdio collects the files of the process: ours, and those to be preserved. Descriptors
// of socket activation, sd_listen_fds(3), come first; env is what announces them.
func (s *ociStdio) stdio(a *app) (out bundle.Stdio, env []string, err error) {
	n := s.preserve
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid == os.Getpid() {
		listen, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		if err != nil {
			return out, nil, fmt.Errorf("LISTEN_FDS: %w", err)
		}
		n += listen
		env = []string{fmt.Sprintf("LISTEN_FDS=%d", listen), "LISTEN_PID=1"}
	}
	if n < 0 || n > 60 {
		return out, nil, fmt.Errorf("%d descriptors to preserve: %w", n, errdefs.ErrInvalidArgument)
	}
	out.Files = [3]*os.File{a.ui.InFile(), a.ui.OutFile(), a.ui.ErrFile()}
	out.PIDFile, out.Console, out.PIDFD = s.pidFile, s.console, s.pidfdSocket
	for fd := 3; fd < 3+n; fd++ {
		f := os.NewFile(uintptr(fd), "preserved")
		if _, err := f.Stat(); err != nil {
			return out, nil, fmt.Errorf("descriptor %d to preserve: %w", fd, err)
		}
		out.Extra = append(out.Extra, f)
	}
	return out, env, nil
}

// warn tells warnings in the log if there is one: who gives a log gives the container's own
// standard error too, which is for what the container says.
func (o *ociCommand) warn(warnings []string) {
	for _, w := range warnings {
		if o.log == "" || o.appendLog("warning", w) != nil {
			o.a.ui.Warnf("%s", w)
		}
	}
}

// simple is a command that does one thing to one container.
func (o *ociCommand) simple(use, short string, do func(context.Context, *bundle.Container) error) *cobra.Command {
	return &cobra.Command{Use: use + " CONTAINER", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.container(args)
			if err != nil {
				return err
			}
			return do(cmd.Context(), c)
		}}
}
