package op

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/runner/oci"
	"github.com/teu-dev/teu/runner/spec"
)

// Containers is the Executor that runs commands in containers of this machine.
type Containers struct {
	Keeper  func() (*keeper.Binary, error)
	Network *network.Manager
	Warn    func(string) // what the host cannot do, in plain words; may be nil
	// AppArmor names the profile of commands that are not insecure, and makes sure that it is loaded; "" is none.
	// It may be nil.
	AppArmor func() (string, error)

	look    sync.Once // at the control groups of the host, which stay where they are
	host    *cgroup.Host
	hostErr error
}

var _ Executor = (*Containers)(nil)

// Run implements Executor. Who has several commands to run does so in a [Session].
func (x *Containers) Run(ctx context.Context, p Process) (err error) {
	s, err := x.Begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Run(ctx, p)
}

// HostGateway returns the address of this machine in the network of the commands.
func (x *Containers) HostGateway(ctx context.Context) (a netip.Addr, err error) {
	if x.Network == nil {
		return a, fmt.Errorf("commands have no network: %w", errdefs.ErrUnavailable)
	}
	self, err := statefile.Self()
	if err != nil {
		return a, err
	}
	id := groupName(self)
	sb, err := x.Network.Attach(ctx, id, network.Options{Owner: &self})
	if err != nil {
		return a, err
	}
	if main := sb.Main(); main != nil {
		a = main.Gateway
	}
	if err := x.Network.Detach(context.WithoutCancel(ctx), id); err != nil || a.IsValid() {
		return a, err
	}
	return a, fmt.Errorf("the network of the commands does not lead to the host: %w", errdefs.ErrUnavailable)
}

// spec makes the runtime spec. Mounts are added here: they are not of the kinds users ask for.
func (x *Containers) spec(p Process, netns string) (*specs.Spec, error) {
	o := spec.Options{
		Args:       p.Args,
		Env:        slices.Concat(p.Env, p.Devices.Env),
		Groups:     p.Devices.Groups,
		Devices:    p.Devices.Devices,
		Mounts:     p.Devices.Mounts,
		WorkingDir: p.Cwd,
		User:       p.User,
		Hostname:   p.Hostname,
		ReadOnly:   p.ReadOnly,
		Privileged: p.Insecure, WritableCgroups: p.Insecure,
		Rlimits:   rlimits(p),
		Resources: resources(p),
		NetNS:     netns,
		Files:     p.Files,
		TTY:       p.TTY,
	}
	if x.AppArmor != nil && !p.Insecure {
		var err error
		if o.AppArmor, err = x.AppArmor(); err != nil {
			return nil, err
		}
	}
	s, warnings, err := spec.New(ocispec.ImageConfig{}, o)
	if err != nil {
		return nil, err
	}
	x.warn(warnings)
	// BuildKit's steps go where the instruction says: what is before a ".." may be a link, and is made if it is missing.
	if path.IsAbs(p.Cwd) {
		s.Process.Cwd = p.Cwd
	}
	// Containers have the variable, steps of BuildKit have not: what they print is the same.
	if !slices.ContainsFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, "HOSTNAME=") }) {
		s.Process.Env = slices.DeleteFunc(s.Process.Env, func(v string) bool { return v == "HOSTNAME="+p.Hostname })
	}
	for i, m := range p.Mounts {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(d specs.Mount) bool { return d.Destination == m.Target })
		mnt := specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: m.Options}
		if m.Source != nil {
			mnt.Type, mnt.Source = "bind", fmt.Sprintf("mount %d of the step", i)
			mnt.Options = append([]string{"rbind", "rprivate"}, m.Options...)
		}
		s.Mounts = append(s.Mounts, mnt)
	}
	return s, nil
}

func (x *Containers) warn(lines []string) {
	for _, l := range lines {
		if x.Warn != nil {
			x.Warn(l)
		}
	}
}

func rlimits(p Process) (list []specs.POSIXRlimit) {
	for _, u := range p.Ulimits {
		list = append(list, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard),
		})
	}
	return list
}

// resources translates the limits of a step; nil if there are none.
func resources(p Process) *specs.LinuxResources {
	r := p.Resources
	if r == nil {
		return nil
	}
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}, Memory: &specs.LinuxMemory{}}
	set(&out.Memory.Limit, r.Memory)
	set(&out.Memory.Swap, r.MemorySwap)
	set(&out.CPU.Shares, r.CpuShares)
	set(&out.CPU.Period, r.CpuPeriod)
	set(&out.CPU.Quota, r.CpuQuota)
	return out
}

func set[T comparable](to **T, v T) {
	var zero T
	if v != zero {
		*to = &v
	}
}

// Sweep takes away what the commands of processes that are gone have left: networks and control groups.
func (x *Containers) Sweep(ctx context.Context) error {
	if x.findGroups(ctx); x.Network == nil {
		return nil
	}
	return x.Network.Sweep(ctx)
}

func (x *Containers) findGroups(ctx context.Context) {
	x.look.Do(func() {
		if x.host, x.hostErr = cgroup.DetectOwned(); x.hostErr == nil {
			sweepGroups(ctx, x.host)
		}
	})
}

// run starts the command and waits for its end.
func (x *Containers) run(ctx context.Context, jobs *keeper.Jobs, p Process, s *specs.Spec, at *place) error {
	o := oci.Options{CgroupProcs: at.group.Joins(), CgroupDir: at.group.V2Dir(), Detached: map[string]oci.Detached{}}
	var files []*os.File
	for _, m := range p.Mounts {
		if m.Source == nil {
			continue
		}
		o.Detached[m.Target] = oci.Detached{Slot: 3 + len(files), File: m.File}
		files = append(files, m.Source)
	}
	program, err := oci.Compile(s, oci.Rootfs{Overlay: p.Root}, o)
	if err != nil {
		return err
	}
	job := p.job(program, s.Process.User)
	job.Files, job.Cgroup = files, at.files
	if p.Begun != nil {
		job.Begun = func(b keeper.Begun) { p.Begun(&running{b: b, jobs: jobs, spec: s, at: at}) }
	}
	return ended(jobs.Run(ctx, job))
}

// job is p for a keeper.
func (p Process) job(program *launch.Program, user specs.User) keeper.Job {
	return keeper.Job{
		Program: program, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Terminal: p.TTY,
		UID: int(user.UID), GID: int(user.GID),
	}
}

// ended judges how a job ended.
func ended(status keeper.ExitStatus, err error) error {
	var failed *keeper.LaunchError
	switch {
	case errors.As(err, &failed) && failed.Code > 125:
		return &startError{LaunchError: failed}
	case err != nil:
		return err
	case status.Error != "":
		return fmt.Errorf("the end of the command is unknown: %s: %w", status.Error, errdefs.ErrUnavailable)
	case status.Code != 0:
		return &ExitError{Code: status.Code, OOMKilled: status.OOMKilled}
	}
	return nil
}

// startError is a command that could not be executed. It has the exit code that a shell gives.
type startError struct {
	*keeper.LaunchError
	command string // with its arguments
}

// As makes it an ExitError for those who look at the code.
func (e *startError) As(target any) bool {
	exit, ok := target.(**ExitError)
	if ok {
		*exit = &ExitError{Code: e.Code, Command: e.command}
	}
	return ok
}

// Unwrap returns the failure, with the kernel's error below it.
func (e *startError) Unwrap() error { return e.LaunchError }

// Hint explains the most usual cause that is not a wrong name.
func (e *startError) Hint() string {
	if errors.Is(e.LaunchError, unix.ENOEXEC) {
		return "the program is for another architecture, or a script without an interpreter line; a foreign architecture needs binfmt_misc on this machine"
	}
	return ""
}

// cgroupFiles are the files by which the keeper sees an OOM kill and ends what is left.
func cgroupFiles(g *cgroup.Group) (f keeper.Cgroup) {
	for _, procs := range g.Procs() {
		f.ProcFile = procs
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			file := path.Join(path.Dir(procs), name)
			if _, err := os.Stat(file); err == nil {
				f.OOM = file
			}
		}
	}
	return f
}
