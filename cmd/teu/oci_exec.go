package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/teu-dev/teu/runner/bundle"
	"github.com/teu-dev/teu/runner/launch"
)

// ociExec are the flags of exec.
type ociExec struct {
	ociStdio
	process      string
	detach, tty  bool
	ignorePaused bool
	noNewPrivs   bool
	env          []string
	user, cwd    string
	groups       []uint
	caps         []string
	apparmor     string
	label        string
	cgroups      []string
	given        func(flag string) bool
}

func (o *ociCommand) exec() *cobra.Command {
	var f ociExec
	cmd := &cobra.Command{Use: "exec [OPTIONS] CONTAINER [COMMAND] [ARG...]", Short: "Start a process in a container", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := o.execute(&f, args)
			var exit *exitError
			if errors.As(err, &exit) {
				return err
			}
			return withExitCode(255, err)
		}}
	f.flags(cmd)
	return cmd
}

func (f *ociExec) flags(cmd *cobra.Command) {
	f.ociStdio.flags(cmd)
	l := cmd.Flags()
	f.given = l.Changed
	l.StringVarP(&f.process, "process", "p", "", "file of the process in JSON")
	l.BoolVarP(&f.detach, "detach", "d", false, "do not wait for the process")
	l.BoolVarP(&f.tty, "tty", "t", false, "give it a terminal")
	l.BoolVar(&f.ignorePaused, "ignore-paused", false, "start it although the container is paused")
	l.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	listVar(l, &f.env, "env", "e", "set an environment variable")
	l.StringVarP(&f.user, "user", "u", "", "UID[:GID]")
	l.StringVar(&f.cwd, "cwd", "", "working directory")
	l.UintSliceVarP(&f.groups, "additional-gids", "g", nil, "additional groups")
	listVar(l, &f.caps, "cap", "c", "add a capability")
	l.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile")
	l.StringVar(&f.label, "process-label", "", "SELinux label")
	listVar(l, &f.cgroups, "cgroup", "", "[CONTROLLER[,CONTROLLER]:]PATH of a group below the container's")
}

func (o *ociCommand) execute(f *ociExec, args []string) error {
	c, err := o.container(args)
	if err != nil {
		return err
	}
	p, err := f.load(c, args[1:])
	if err != nil {
		return err
	}
	stdio, env, err := f.stdio(o.a)
	if err != nil {
		return err
	}
	p.Env = append(p.Env, env...)
	opts := bundle.ExecOptions{Stdio: stdio, IgnorePaused: f.ignorePaused, Cgroups: f.cgroups}
	if f.detach {
		_, err := c.Exec(p, opts)
		return err
	}
	fg, err := newForeground(o.a)
	if err != nil {
		return err
	}
	defer fg.close()
	opts.Terminal = fg.terminal
	id, err := c.Exec(p, opts)
	if err != nil {
		return err
	}
	code, err := fg.wait(id)
	if err != nil {
		return err
	}
	return exitWith(code)
}

// load makes the process from its file or from the flags and the container's own.
func (f *ociExec) load(c *bundle.Container, args []string) (*specs.Process, error) {
	if f.process != "" {
		p := new(specs.Process)
		return p, readJSON(f.process, p)
	}
	p, err := c.Process()
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal, p.ConsoleSize = args, f.tty, nil
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	p.Env = append(p.Env, f.env...)
	if f.given("no-new-privs") {
		p.NoNewPrivileges = f.noNewPrivs
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	if len(f.caps) > 0 {
		have := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			have = *p.Capabilities
		}
		for _, set := range []*[]string{&have.Bounding, &have.Effective, &have.Permitted} {
			*set = append((*set)[:len(*set):len(*set)], f.caps...)
		}
		for _, c := range f.caps { // as runc: what the container lets children inherit
			if slices.Contains(have.Inheritable, c) {
				have.Ambient = append(have.Ambient[:len(have.Ambient):len(have.Ambient)], c)
			}
		}
		p.Capabilities = &have
	}
	return p, f.setUser(p)
}

func (f *ociExec) setUser(p *specs.Process) error {
	for _, g := range f.groups {
		if g > math.MaxUint32 {
			return fmt.Errorf("group %d: %w", g, errdefs.ErrInvalidArgument)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if f.user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(f.user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("user %q is not a number: %w", f.user, errdefs.ErrInvalidArgument)
	}
	p.User.UID = uint32(n)
	if both {
		if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
			return fmt.Errorf("group %q is not a number: %w", gid, errdefs.ErrInvalidArgument)
		}
		p.User.GID = uint32(n)
	}
	return nil
}

// readJSON reads a document of the caller; "-" is standard input.
func readJSON(path string, v any) error {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if err := json.NewDecoder(io.LimitReader(in, 8<<20)).Decode(v); err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// console connects the terminal of a container with ours. A nil console does nothing.
type console struct {
	master *os.File
	in     *os.File
	state  *term.State
	out    sync.WaitGroup
}

func newConsole(a *app, master *os.File) *console {
	c := &console{master: master, in: a.ui.InFile()}
	// As runc: what the container writes comes out as it was written, and our terminal goes
	// on making CR LF of LF.
	changeOutput(master, 0, unix.ONLCR)
	if a.ui.InTerminal() {
		c.state, _ = term.MakeRaw(int(c.in.Fd()))
		changeOutput(c.in, unix.OPOST, 0)
		c.resize()
	}
	go io.Copy(master, c.in) // not waited for: input has no end of its own
	c.out.Go(func() { io.Copy(a.ui.OutFile(), launch.ConsoleReader{Master: master}) })
	return c
}

// changeOutput changes output modes of a terminal; termios(3). One that is no terminal any
// more stays as it is.
func changeOutput(tty *os.File, set, clear uint32) {
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return
	}
	t.Oflag = t.Oflag&^clear | set
	unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t)
}

func (c *console) resize() {
	if c == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(int(c.in.Fd()), unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(int(c.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// drain waits for what was still written; reading ends when the other side is closed.
func (c *console) drain() {
	if c != nil {
		c.out.Wait()
	}
}

func (c *console) close() {
	if c == nil {
		return
	}
	if c.state != nil {
		term.Restore(int(c.in.Fd()), c.state)
	}
	c.master.Close()
}
