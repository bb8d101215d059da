package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/spec"
)

// StartOptions say what the starter wants besides a running container.
type StartOptions struct {
	// Attach gives the starter a session that sees the output from its first byte.
	Attach *keeper.AttachOptions
	// Warn is told what the host cannot do, in plain words.
	Warn func(string)
	// Columns and Rows are the size of the starter's terminal.
	Columns, Rows uint16
}

// Start starts a container that is not running. One that runs is left alone, unless a
// session is wanted: that is an errdefs.ErrConflict. A command that cannot be executed is
// a [*keeper.LaunchError].
func (e *Engine) Start(ctx context.Context, ref string, o StartOptions) (*Session, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	unlock, err := e.lock(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err = e.load(c.ID); err != nil {
		return nil, missing(err, ref)
	}
	switch c.State.Status {
	case keeper.Paused:
		return nil, worded(errdefs.ErrConflict, "cannot start a paused container, try unpause instead")
	case keeper.Running, keeper.Restarting:
		if o.Attach != nil {
			return nil, worded(errdefs.ErrConflict, "container %s is already running", c.ID)
		}
		return nil, nil
	case keeper.Removing:
		return nil, worded(errdefs.ErrConflict, "container %s is marked for removal and cannot be started", c.ID)
	case keeper.Dead:
		return nil, worded(errdefs.ErrConflict, "container %s has lost its record and can only be removed: %s", c.ID, c.State.Error)
	}
	for try := 0; ; try++ {
		s, err := e.start(ctx, c, o)
		if err == nil || !errors.Is(err, errKeeperLost) || try == maxStarts {
			return s, err
		}
		if c, err = e.load(c.ID); err != nil {
			return nil, missing(err, ref)
		}
	}
}

// maxStarts is how often a container is started again whose keeper somebody killed before it
// could say that it was.
const maxStarts = 5

// errKeeperLost is a keeper that died while it started a container.
var errKeeperLost = errors.New("its keeper was killed")

// start is one try of Start, under the container's lock.
func (e *Engine) start(ctx context.Context, c *Container, o StartOptions) (*Session, error) {
	keeps := e.claimSpare(c.ID)
	defer keeps.close()
	if err := e.finish(ctx, c); err != nil {
		return nil, fmt.Errorf("cleaning up after the last run: %w", err)
	}
	if !ended(c.State) { // another starter's keeper was at it
		if o.Attach != nil {
			return nil, worded(errdefs.ErrConflict, "container %s is already running", c.ID)
		}
		return nil, nil
	}
	// From here on there is something to finish, should we die.
	c.State.Finished, c.State.Error = false, ""
	if err := e.writeState(c); err != nil {
		return nil, err
	}
	stream, err := e.begin(ctx, c, keeps, o)
	if err != nil {
		now, e2 := e.load(c.ID)
		if e2 != nil {
			return nil, errors.Join(err, e2)
		}
		if errors.Is(err, errKeeperLost) && !ended(now.State) {
			return e.resumed(ctx, c, o) // it had been started
		}
		if ended(now.State) && now.State.Error == "" { // else the keeper has noted why
			now.State.Error, now.State.ExitCode = err.Error(), cmp.Or(now.State.ExitCode, notStartedCode)
			err = errors.Join(err, e.writeState(now))
		}
		return nil, errors.Join(err, e.finish(context.WithoutCancel(ctx), now))
	}
	if o.Attach == nil {
		return nil, nil
	}
	return newSession(e, c, stream, *o.Attach), nil
}

// notStartedCode is the exit code of a container that could not be started, as in docker.
const notStartedCode = 128

// begin makes everything volatile and gives it to the keeper.
func (e *Engine) begin(ctx context.Context, c *Container, keeps *spare, o StartOptions) (*keeper.Stream, error) {
	if err := errors.Join(os.MkdirAll(e.runDir(c.ID), 0o700), os.RemoveAll(e.execDir(c.ID))); err != nil {
		return nil, err
	}
	p, err := e.plan(ctx, c, o)
	if err != nil {
		return nil, err
	}
	cfg := e.keeperConfig(c, p, o)
	if cfg.Log.Attrs, err = c.logAttrs(); err != nil {
		return nil, err
	}
	if cfg.Log.Send, err = e.logSender(ctx, c); err != nil {
		return nil, err
	}
	k, err := keeps.keeper()
	if err != nil {
		return nil, err
	}
	so := keeper.StartOptions{Attach: o.Attach, Claim: o.Attach != nil}
	if cfg.Health, so.Health, err = e.healthCheck(c, p); err != nil {
		return nil, fmt.Errorf("health check of %s: %w", c.Name, err)
	}
	if a := o.Attach; a != nil && (a.Stdin || a.Stdout || a.Stderr) {
		e.tell(c, "attach", nil)
	}
	e.tellJoined(c, p.sandbox)
	stream, err := k.Start(ctx, cfg, p.program, so)
	if errors.Is(err, errdefs.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", errKeeperLost, err)
	}
	if err != nil {
		return nil, fmt.Errorf("starting container %s: %w", c.Name, err)
	}
	return stream, nil
}

// plan is everything decided about a start.
type plan struct {
	spec    *specs.Spec
	program *launch.Program
	sandbox network.Sandbox
	group   *cgroup.Group
	gates   []keeper.Gate

	warnings []string // of the network
}

// plan resolves the container's options on this host.
func (e *Engine) plan(ctx context.Context, c *Container, o StartOptions) (*plan, error) {
	store, err := e.Store()
	if err != nil {
		return nil, err
	}
	sn, err := store.Snapshots.Get(c.ID)
	if err != nil {
		return nil, fmt.Errorf("root filesystem of %s: %w", c.Name, err)
	}
	if err := e.renewOwnLayers(ctx, store, c, sn.Layers); err != nil {
		return nil, err
	}
	if err := e.mountVolumes(ctx, c); err != nil {
		return nil, err
	}
	p, ns, opts := &plan{}, joined{}, oci.Options{HoldSignals: c.Options.Init}
	if err := e.joinUser(ctx, c, &ns, &opts); err != nil {
		return nil, err
	}
	netns, err := e.attachNetwork(ctx, c, ns.user, p)
	if err != nil {
		return nil, err
	}
	ns.net = netns
	if err := e.writeFiles(ctx, c, p.sandbox); err != nil {
		return nil, err
	}
	warn := func(lines []string) {
		if o.Warn != nil {
			for _, l := range lines {
				o.Warn(l)
			}
		}
	}
	warn(p.warnings)
	var warnings []string
	if err := errors.Join(e.joinPID(ctx, c, &ns, &opts), e.joinIPC(ctx, c, &ns, &opts)); err != nil {
		return nil, err
	}
	if p.spec, warnings, err = e.spec(c, sn, ns); err != nil {
		return nil, err
	}
	warn(warnings)
	if err := c.labelMounts(); err != nil {
		return nil, err
	}
	if err := giveToUser(c, int(p.spec.Process.User.UID), int(p.spec.Process.User.GID)); err != nil {
		return nil, err
	}
	if err := findSubpaths(c, &opts); err != nil {
		return nil, err
	}
	host, err := e.host()
	if err != nil {
		return nil, err
	}
	if p.group, warnings, err = host.Create(c.cgroupPath(), p.spec.Linux.Resources); err != nil {
		return nil, fmt.Errorf("making the control group: %w", err)
	}
	warn(warnings)
	opts.CgroupProcs, opts.CgroupDir = p.group.Joins(), p.group.V2Dir()
	opts.UserOfNetwork = c.UserIDs != nil && ns.user == "" && c.ownNetwork() && path.IsAbs(netns)
	if err := e.prepareHooks(c, p, &opts); err != nil {
		return nil, err
	}
	p.program, err = oci.Compile(p.spec, oci.Rootfs{Overlay: sn.Overlay(), Mapped: c.UserIDs.mapped()}, opts)
	return p, err
}

// Explain returns the list of steps that starting the container would take.
func (e *Engine) Explain(ctx context.Context, ref string) (string, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return "", err
	}
	unlock, err := e.lock(ctx, c.ID)
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.State.Status != keeper.Created && c.State.Status != keeper.Exited {
		return "", worded(errdefs.ErrConflict, "container %s is %s", c.ID, c.State.Status)
	}
	// From here on there is something to finish, should we die.
	c.State.Finished = false
	if err := e.writeState(c); err != nil {
		return "", err
	}
	p, err := e.plan(ctx, c, StartOptions{})
	text := ""
	if err == nil {
		text = p.program.String()
	}
	end := context.WithoutCancel(ctx)
	if undone := errors.Join(e.tidy(end, c), e.releaseVolumes(end, c)); undone != nil {
		return text, errors.Join(err, undone)
	}
	c.State.Finished = true
	return text, errors.Join(err, e.writeState(c))
}

// spec makes the runtime spec of a container that does not run.
func (e *Engine) spec(c *Container, sn snapshot.Snapshot, ns joined) (*specs.Spec, []string, error) {
	root, err := view(sn)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the root filesystem: %w", err)
	}
	defer root.Close()
	return e.specOn(root, c, ns)
}

// specOn makes the runtime spec of a container with what is in its root.
func (e *Engine) specOn(root *rootfs.Dir, c *Container, ns joined) (*specs.Spec, []string, error) {
	o := &c.Options
	so := spec.Options{
		Args: o.Args, Entrypoint: o.Entrypoint, ClearEntrypoint: o.ClearEntrypoint,
		Env: o.Env, WorkingDir: o.WorkingDir, User: o.User, Groups: o.Groups,
		Hostname: c.Hostname, Domainname: o.Domainname, TTY: o.TTY,
		Privileged: o.Privileged, CapAdd: o.CapAdd, CapDrop: o.CapDrop, ReadOnly: o.ReadOnly,
		NoNewPrivileges: o.NoNewPrivileges, Seccomp: o.Seccomp,
		Mounts: e.specMounts(c), ShmSize: o.ShmSize, Devices: o.Devices, DeviceRules: o.DeviceRules,
		Sysctls: o.Sysctls, Rlimits: o.Rlimits, OOMScoreAdj: o.OOMScoreAdj, Resources: o.Resources,
		NetNS: ns.net, PIDNS: ns.pid, IPCNS: ns.ipc, Shm: ns.shm, UTSNS: o.UTSMode, CgroupNS: o.CgroupMode,
		Files: root, SharedNet: !c.ownNetwork(),
	}
	if c.UserIDs != nil {
		so.UserNS = ns.user
		so.UIDs, so.GIDs = c.UserIDs.UIDs, c.UserIDs.GIDs
	}
	so.ProcessLabel, so.MountLabel = c.ProcessLabel, c.MountLabel
	so.AppArmor, so.OpenPaths, so.WritableCgroups = o.appArmor(), o.OpenPaths, o.Privileged
	if err := e.loadAppArmor(so.AppArmor); err != nil {
		return nil, nil, err
	}
	if o.WritableCgroups != nil {
		so.WritableCgroups = *o.WritableCgroups
	}
	so.MaskedPaths, so.ReadonlyPaths = o.MaskedPaths, o.ReadonlyPaths
	if o.Init {
		init, err := e.initFile()
		if err != nil {
			return nil, nil, fmt.Errorf("making the init: %w", err)
		}
		so.Init = init
	}
	s, warnings, err := spec.New(c.ImageConfig, so)
	if err != nil {
		return nil, nil, err
	}
	s.Process.User.Umask = o.Umask
	if o.IPCMode == "none" {
		withoutShm(s)
	}
	if o.Columns > 0 {
		s.Process.ConsoleSize = &specs.Box{Width: uint(o.Columns), Height: uint(o.Rows)}
	}
	return s, warnings, nil
}

// keeperConfig is what the keeper must know.
func (e *Engine) keeperConfig(c *Container, p *plan, o StartOptions) keeper.Config {
	opts := &c.Options
	cfg := keeper.Config{
		ID: c.ID, Label: c.MountLabel, RunDir: e.runDir(c.ID), StateFile: e.stateFile(c.ID), Record: e.configFile(c.ID),
		Log: keeper.Log{Path: e.logFile(c.ID), MaxSize: opts.LogSize, MaxFiles: opts.LogFiles, Compress: opts.compressLog()},
		TTY: opts.TTY, OpenStdin: opts.OpenStdin, StdinOnce: opts.StdinOnce,
		Columns: o.Columns, Rows: o.Rows,
		Events: keeper.Events{
			Dir: e.journal().Dir, Attributes: c.eventAttributes(nil), NameFile: e.nameFile(c.ID),
		},
		Restart: opts.Restart, Cgroup: cgroupFiles(p.group),
		NetworkOptions: e.keeperNetwork(c.ID, p.sandbox),
		Gates:          p.gates,
		Finish:         e.teu("container", "finish", c.ID),
		Env:            []string{"PATH=" + os.Getenv("PATH"), "HOME=/"},
	}
	cfg.UID, cfg.GID = c.UserIDs.outside(int(p.spec.Process.User.UID), int(p.spec.Process.User.GID))
	switch {
	case opts.LogDriver == "none":
		cfg.Log = keeper.Log{}
	case opts.LogSize == 0:
		cfg.Log.MaxSize = defaultLogSize
	}
	if cfg.Log.MaxFiles == 0 {
		cfg.Log.MaxFiles = defaultLogFiles
	}
	if opts.sendsLog() {
		cfg.Log.MaxFiles = max(2, cfg.Log.MaxFiles) // what is sent may be in the file before
		if !opts.ReadsLog() {                       // then only what waits to be sent is kept, in memory
			cfg.Log = keeper.Log{Path: filepath.Join(e.runDir(c.ID), "log"), MaxSize: unreadLogSize, MaxFiles: 3}
		}
	}
	return cfg
}

// cgroupFiles finds the files the keeper uses among the directories of a group.
func cgroupFiles(g *cgroup.Group) (f keeper.Cgroup) {
	procs := g.Procs()
	if len(procs) == 0 {
		return f
	}
	f.ProcFile = procs[0]
	for _, p := range procs {
		dir := filepath.Dir(p)
		for _, c := range []struct {
			name string
			use  func(path string)
		}{
			{"cgroup.freeze", func(path string) { f.Freeze, f.Frozen, f.Thawed = path, "1", "0" }},
			{"freezer.state", func(path string) { f.Freeze, f.Frozen, f.Thawed = path, "FROZEN", "THAWED" }},
			{"memory.events", func(path string) { f.OOM = path }},
			{"memory.oom_control", func(path string) { f.OOM = path }},
		} {
			path := filepath.Join(dir, c.name)
			if _, err := os.Stat(path); err == nil {
				c.use(path)
			}
		}
	}
	return f
}

// rootOf opens the root of a running container as it sees it, with all that is mounted.
func rootOf(c *Container) (*rootfs.Dir, error) {
	return rootfs.Open(fmt.Sprintf("/proc/%d/root", c.State.Init.PID))
}
