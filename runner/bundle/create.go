package bundle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/hook"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/systemd"
)

// Stdio is what a process gets and where its identity goes.
type Stdio struct {
	Files   [3]*os.File // standard input, output, error
	Extra   []*os.File  // from descriptor 3 on
	PIDFile string      // "" writes none
	// Console is the path of a socket that gets the terminal's master.
	Console string
	// Terminal gets the master if there is no socket.
	Terminal func(master *os.File)
	// PIDFD is the path of a socket that gets a pidfd of the process.
	PIDFD string
}

// CreateOptions are what the caller decides.
type CreateOptions struct {
	Stdio
	Env      []string // added to the spec's
	NoCgroup bool
	// Systemd has systemd make the control group, of a cgroupsPath "slice:prefix:name".
	Systemd bool
	// Rootless makes a container without a control group where none may be made.
	Rootless bool
	Owner    string
	// Notify gives it a socket to say that it is ready, see Notifier.
	Notify bool
	// NoPivot and SharedKeyring are those of oci.Options.
	NoPivot, SharedKeyring bool
	// KeepGroups lets the container and what is executed in it have the groups of the caller,
	// if the bundle has the annotation keepGroups.
	KeepGroups bool
}

// keepGroups is an annotation of crun, by which podman asks for --group-add keep-groups. It
// may be the image's as well, whose annotations podman puts among those of the bundle.
const keepGroups = "run.oci.keep_original_groups"

// Create makes the container of a bundle. Its process waits for Start.
func (s *Store) Create(ctx context.Context, id, dir string, o CreateOptions) (c *Container, warnings []string, err error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	l := keeper.NewLauncher(s.keeper)
	defer l.Close()
	c = &Container{store: s, dir: filepath.Join(s.root, id), Record: Record{ID: id, Created: time.Now().UTC(), Owner: o.Owner}}
	conf, err := c.load(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("bundle %s: %w", dir, err)
	}
	if err := checkConsole(conf.Process, o.Stdio); err != nil {
		return nil, nil, err
	}
	if conf.Process != nil {
		conf.Process.Env = append(conf.Process.Env, o.Env...)
	}
	restrictDevices(conf.Linux, o.Rootless)
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, nil, err
	}
	unlock, err := c.claim()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	defer func() {
		if err != nil {
			err = errors.Join(err, c.discard(context.WithoutCancel(ctx)))
			if c.begun { // runtime.md, "Lifecycle", steps 3 to 5: what hooks have begun, others end
				warnings = append(warnings, c.hooks(conf).RunAll(context.WithoutCancel(ctx), hook.Poststop)...)
			}
		}
	}()
	if o.Notify && conf.Process != nil {
		if err := c.addNotify(conf); err != nil {
			return nil, nil, err
		}
	}
	if _, asked := conf.Annotations[keepGroups]; asked {
		c.KeepGroups = o.KeepGroups
		if !o.KeepGroups {
			warnings = append(warnings, "the caller's groups are not kept: the annotation "+keepGroups+" may be an image's and counts with the option --keep-groups only")
		}
	}
	c.SharedKeyring = o.SharedKeyring
	more, err := c.create(ctx, l, conf, o)
	return c, slices.Concat(warnings, oci.Ungrantable(conf.Process), more), err
}

// claim makes the container's directory and locks it. One without a record is nobody's: whoever made it died
// before there was one, or whoever removed it after that had gone.
func (c *Container) claim() (unlock func() error, err error) {
	taken := fmt.Errorf("container with given ID already exists: %s: %w", c.ID, errdefs.ErrAlreadyExists)
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	unlock, free, err := statefile.TryLock(filepath.Join(c.dir, lockName), statefile.LockOptions{})
	if errors.Is(err, os.ErrNotExist) || err == nil && !free { // it is being removed, or made
		return nil, taken
	}
	if err != nil {
		return nil, err
	}
	if _, err = os.Lstat(filepath.Join(c.dir, recordName)); err == nil {
		err = taken
	} else if errors.Is(err, os.ErrNotExist) {
		err = c.clear()
	}
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	return unlock, nil
}

// clear removes what is in the container's directory but for the lock, which is held.
func (c *Container) clear() error {
	entries, err := os.ReadDir(c.dir)
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, e.Name())))
		}
	}
	return err
}

// load reads the spec of a bundle and makes its paths absolute.
func (c *Container) load(dir string) (*specs.Spec, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	conf := new(specs.Spec)
	if err := statefile.Read(filepath.Join(abs, configName), conf); err != nil {
		return nil, err
	}
	if conf.Root == nil || conf.Root.Path == "" || conf.Linux == nil {
		return nil, fmt.Errorf("config.json without root or linux: %w", errdefs.ErrInvalidArgument)
	}
	hook.KeepEmptyEnv(conf.Hooks)
	if s := conf.Linux.Seccomp; s != nil && s.Flags != nil && len(s.Flags) == 0 {
		// JSON leaves an empty list out, and without any there are others. This one has no effect.
		s.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}
	}
	within := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(abs, path)
	}
	conf.Root.Path = within(conf.Root.Path)
	for i, m := range conf.Mounts {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bind && m.Source != "" {
			conf.Mounts[i].Source = within(m.Source)
		}
	}
	c.Bundle, c.Rootfs = abs, conf.Root.Path
	return conf, nil
}

func checkConsole(p *specs.Process, o Stdio) error {
	tty := p != nil && p.Terminal
	switch {
	case tty && o.Console == "" && o.Terminal == nil:
		return fmt.Errorf("terminal without a console socket: %w", errdefs.ErrInvalidArgument)
	case !tty && o.Console != "":
		return fmt.Errorf("console socket without a terminal: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// create writes the record before it makes what the record leads to.
func (c *Container) create(ctx context.Context, l *keeper.Launcher, conf *specs.Spec, o CreateOptions) (warnings []string, err error) {
	h, m, err := c.claimGroup(ctx, conf, o)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := c.claimRDT(conf.Linux.IntelRdt); err != nil {
		return nil, err
	}
	seccomp := conf.Linux.Seccomp
	c.Plain = conf.Process != nil && conf.Hooks == nil && (seccomp == nil || seccomp.ListenerPath == "")
	if err := statefile.Write(filepath.Join(c.dir, configName), conf, statefile.WriteOptions{}); err != nil {
		return nil, err
	}
	if err := c.save(); err != nil {
		return nil, err
	}
	opts, err := c.options(conf, o)
	if err != nil {
		return nil, err
	}
	if err := c.makeRDT(conf.Linux.IntelRdt); err != nil {
		return nil, err
	}
	limit := func() error { return nil } // when the process is there
	switch {
	case m != nil:
		if err := c.startScope(ctx, m, l, conf); err != nil {
			return nil, err
		}
		opts.CgroupProcs, opts.InCgroup = h.Open(c.Cgroup).Joins(), true
		limit = func() (err error) {
			if err = m.Set(ctx, c.Scope, h.Open(c.Cgroup).Files(conf.Linux.Resources)); err == nil {
				warnings, err = c.makeGroup(h, conf, o) // the exact values, of which systemd has written rounded ones
			}
			return err
		}
	case h != nil:
		if warnings, err = c.makeGroup(h, conf, o); err != nil {
			return warnings, err
		}
		if c.Cgroup != "" {
			g := h.Open(c.Cgroup)
			opts.CgroupProcs, opts.CgroupDir = g.Joins(), g.V2Dir()
		}
	}
	filled, err := c.copyUp(conf, &opts)
	defer func() {
		for _, f := range filled {
			f.Close()
		}
	}()
	if err != nil {
		return warnings, err
	}
	made := *conf
	if made.Process == nil {
		opts.NoCommand = true
		made.Process = &specs.Process{Cwd: "/", Args: []string{"/"}}
	} else {
		p := *made.Process // the record does not have this HOME: an exec may be another user's
		p.Env = withHome(p.Env, c.Rootfs, p.User.UID)
		made.Process = &p
	}
	p, err := oci.Compile(&made, oci.Rootfs{Path: c.Rootfs}, opts)
	if err != nil {
		return warnings, err
	}
	if err := c.saveProgram(p); err != nil {
		return warnings, err
	}
	if err := c.launch(ctx, l, p, conf, o.Stdio, filled, limit); err != nil {
		return warnings, fmt.Errorf("%w%s", err, c.whyStopped())
	}
	return warnings, nil
}

// options are those of the launch program, whose FIFOs are made. Their mode lets in root
// of any user namespace; the directory, nobody but us.
func (c *Container) options(conf *specs.Spec, o CreateOptions) (oci.Options, error) {
	opts := oci.Options{Preserve: len(o.Extra), NoPivot: o.NoPivot, SharedKeyring: o.SharedKeyring, Keyring: c.keyring(), KeepGroups: c.KeepGroups,
		Pause: filepath.Join(c.dir, fifoName)}
	fifos := []string{opts.Pause}
	if conf.Hooks != nil || len(conf.Linux.NetDevices) > 0 {
		opts.Gate = filepath.Join(c.dir, gateName)
		fifos = append(fifos, opts.Gate)
	}
	if s := conf.Linux.Seccomp; s != nil && s.ListenerPath != "" {
		opts.Listener = filepath.Join(c.dir, watchName)
		fifos = append(fifos, opts.Listener)
	}
	for _, path := range fifos {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return opts, fmt.Errorf("mkfifo %s: %w", path, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return opts, err
		}
	}
	return opts, nil
}

// makeGroup makes the control group. Who is not root of the host may do without.
func (c *Container) makeGroup(h *cgroup.Host, conf *specs.Spec, o CreateOptions) (warnings []string, err error) {
	g, warnings, err := h.Create(c.Cgroup, conf.Linux.Resources)
	if o.Rootless && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)) {
		c.Cgroup = ""
		if r := conf.Linux.Resources; r == nil || r.Memory == nil && r.CPU == nil && r.Pids == nil && r.BlockIO == nil {
			return nil, nil
		}
		return []string{"no control group may be made here: resource limits have no effect"}, nil
	}
	if err == nil {
		err = checkThawed(g)
	}
	return warnings, err
}

// claimGroup chooses the control group, on no host if there is to be none, and says which
// systemd makes it, if one does. What is in it will be killed with the container, so nothing
// may be in it now.
func (c *Container) claimGroup(ctx context.Context, conf *specs.Spec, o CreateOptions) (h *cgroup.Host, m *systemd.Manager, err error) {
	if o.NoCgroup {
		return nil, nil, nil
	}
	if h, err = cgroup.Detect(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	path := conf.Linux.CgroupsPath
	switch {
	case o.Systemd:
		if path, m, err = c.claimScope(ctx, h, path); err != nil {
			return nil, m, err
		}
	case path == "":
		path = "/teu-oci/" + c.ID
	}
	g := h.Open(path)
	if err := checkThawed(g); err != nil {
		return nil, m, err
	}
	pids, err := g.Pids()
	if err != nil {
		return nil, m, err
	}
	if len(pids) > 0 {
		return nil, m, fmt.Errorf("container's cgroup is not empty: %s: %w", path, errdefs.ErrFailedPrecondition)
	}
	c.Cgroup = path
	return h, m, nil
}

// checkThawed refuses a group that is frozen, or below one: a process that joins it stops
// there, and whoever starts it would wait for ever.
func checkThawed(g *cgroup.Group) error {
	frozen, err := g.Frozen()
	if err == nil && frozen {
		err = fmt.Errorf("container's cgroup unexpectedly frozen: %s: %w", g.Path(), errdefs.ErrFailedPrecondition)
	}
	return err
}

func (c *Container) save() error {
	return statefile.Write(filepath.Join(c.dir, recordName), &c.Record, statefile.WriteOptions{})
}

func (c *Container) saveProgram(p *launch.Program) error {
	code, err := p.MarshalBinary()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, programName), code, 0o600)
}

func (c *Container) launch(ctx context.Context, l *keeper.Launcher, p *launch.Program, conf *specs.Spec, o Stdio, filled []*os.File, limit func() error) error {
	files := slices.Concat(o.Files[:], o.Extra, filled)
	return withProcess(l, p, files, o, func(child *keeper.Orphan, id statefile.Process) error {
		c.Init = id
		if err := c.save(); err != nil {
			return err
		}
		if err := errors.Join(limit(), c.joinRDT(id.PID)); err != nil || (conf.Hooks == nil && len(conf.Linux.NetDevices) == 0) {
			return err
		}
		if err := c.moveDevices(conf); err != nil {
			return err
		}
		h := c.hooks(conf)
		h.PIDFD = child.PIDFD
		c.begun = true
		for _, at := range []hook.Point{hook.Prestart, hook.CreateRuntime, hook.CreateContainer} {
			if err := h.Run(ctx, at); err != nil {
				return err
			}
		}
		return c.release(p, gateName, nil)
	})
}

// withProcess starts a program and lets it live once its terminal is handed over, keep has
// noted it and the caller's file names it.
func withProcess(l *keeper.Launcher, p *launch.Program, files []*os.File, o Stdio, keep func(*keeper.Orphan, statefile.Process) error) error {
	child, err := l.Launch(p, files)
	if err != nil {
		return err
	}
	defer child.Close()
	defer child.PIDFD.Close()
	if child.Console != nil {
		if err := handConsole(child.Console, o); err != nil {
			return err
		}
	}
	id, err := statefile.Identify(child.PID)
	if errdefs.IsNotFound(err) { // it has ended already, and nobody has reaped it
		id = statefile.Process{PID: child.PID}
	} else if err != nil {
		return err
	}
	if o.PIDFD != "" {
		if err := sendFile(o.PIDFD, []byte("pidfd"), child.PIDFD); err != nil {
			return fmt.Errorf("pidfd socket: %w", err)
		}
	}
	if err := keep(child, id); err != nil {
		return err
	}
	if o.PIDFile != "" {
		if err := writePID(o.PIDFile, id.PID); err != nil {
			return err
		}
	}
	return child.Leave()
}

// handConsole passes the terminal on.
func handConsole(master *os.File, o Stdio) error {
	if o.Console == "" {
		o.Terminal(master)
		return nil
	}
	defer master.Close()
	if err := sendFile(o.Console, []byte("terminal"), master); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	return nil
}

// sendFile passes a file and a message to whoever listens at a UNIX socket.
func sendFile(socket string, message []byte, f *os.File) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err = c.WriteMsgUnix(message, unix.UnixRights(int(f.Fd())), nil); err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	return nil
}

// writePID makes the file appear with its content: others wait for it.
func writePID(path string, pid int) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".pid-")
	if err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(pid))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}
