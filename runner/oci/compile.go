package oci

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// compiler is a program in the making.
type compiler struct {
	*launch.Assembler
	spec    *specs.Spec
	process *specs.Process
	opts    Options

	preserve int // files from 3 on the command gets

	null   launch.Ref            // the host's /dev/null
	root   launch.Ref            // root of the container, a mount
	proc   launch.Ref            // a procfs that is mounted nowhere
	stat   launch.Arg            // where fstat writes
	self   launch.Arg            // what fstat wrote of the root
	placed []placed              // filesystems we made, in order
	shared map[string]launch.Ref // clones made before the namespace was cut off, by destination
}

// placed is a filesystem of the kernel's making that is mounted at dest. What is below
// dest and no other mount can be reached by fd without looking at the image.
type placed struct {
	dest string
	fd   launch.Ref
	bind bool // not of our making: lookups below start at the root
}

const (
	atFDCWD = unix.AT_FDCWD
	cloexec = unix.O_CLOEXEC
)

func compile(s *specs.Spec, r Rootfs, o Options) (*launch.Program, error) {
	if err := supported(s, o); err != nil {
		return nil, fmt.Errorf("compiling the container: %w", err)
	}
	flags, err := cloneFlags(s)
	if err != nil {
		return nil, fmt.Errorf("compiling the container: %w", err)
	}
	slots, err := detachedSlots(s, &o)
	if err != nil {
		return nil, fmt.Errorf("compiling the container: %w", err)
	}
	c := &compiler{
		Assembler: launch.NewAssembler(launch.Options{Slots: slots, CloneFlags: flags, CgroupDir: o.CgroupDir}),
		spec:      s, process: s.Process, opts: o, preserve: o.Preserve,
	}
	for _, step := range []func() error{
		c.begin,
		func() error { return c.makeRoot(r) },
		c.makeMounts,
		c.makeDevices,
		c.makeConsole,
		c.makeWorkingDir,
		c.protectPaths,
		c.gate,
		c.enterRoot,
		c.configure,
		c.pause,
		c.becomeUser,
		c.execute,
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("compiling the container: %w", err)
		}
	}
	return c.Program()
}

// maxPreserve keeps within the slots a program can have.
const maxPreserve = 60

// detachedSlots counts the files a program wants and brings the destinations of those that
// are mounts into the form they are looked up in. Each must be a mount of the spec.
func detachedSlots(s *specs.Spec, o *Options) (int, error) {
	slots, clean := 3, map[string]Detached{}
	for dest, d := range o.Detached {
		dest = path.Clean("/" + dest)
		if d.Slot < 3 || !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean("/"+m.Destination) == dest }) {
			return 0, fmt.Errorf("file %d is no mount of the spec on %s: %w", d.Slot, dest, errdefs.ErrInvalidArgument)
		}
		clean[dest] = d
		slots = max(slots, d.Slot+1)
	}
	o.Detached = clean
	if o.Preserve < 0 || o.Preserve > maxPreserve || (o.Preserve > 0 && len(clean) > 0) {
		return 0, fmt.Errorf("%d files to preserve, %d detached mounts: %w", o.Preserve, len(clean), errdefs.ErrInvalidArgument)
	}
	return slots + o.Preserve, nil
}

// supported refuses what would otherwise be left out silently.
func supported(s *specs.Spec, o Options) error {
	if s.Process == nil || s.Linux == nil || s.Root == nil {
		return fmt.Errorf("spec has no process, root or linux section: %w", errdefs.ErrInvalidArgument)
	}
	if runtime.GOOS != "linux" {
		return errdefs.ErrNotImplemented
	}
	for name, wanted := range map[string]bool{
		"hooks":             s.Hooks != nil && hooks(s.Hooks, o) > 0,
		"id mappings":       len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0,
		"time offsets":      len(s.Linux.TimeOffsets) > 0,
		"network devices":   len(s.Linux.NetDevices) > 0,
		"intelRdt":          s.Linux.IntelRdt != nil,
		"memoryPolicy":      s.Linux.MemoryPolicy != nil,
		"mountLabel":        s.Linux.MountLabel != "",
		"scheduler":         s.Process.Scheduler != nil,
		"ioPriority":        s.Process.IOPriority != nil,
		"execCPUAffinity":   s.Process.ExecCPUAffinity != nil,
		"a seccomp monitor": s.Linux.Seccomp != nil && s.Linux.Seccomp.ListenerPath != "",
	} {
		if wanted {
			return fmt.Errorf("%s: %w", name, errdefs.ErrNotImplemented)
		}
	}
	return checkProcess(s.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return fmt.Errorf("no command: %w", errdefs.ErrInvalidArgument)
	case !strings.HasPrefix(p.Cwd, "/"):
		return fmt.Errorf("working directory %q is not absolute: %w", p.Cwd, errdefs.ErrInvalidArgument)
	}
	return nil
}

// hooks counts those that nobody would run.
func hooks(h *specs.Hooks, o Options) int {
	n := len(h.CreateContainer) + len(h.StartContainer)
	if o.Gate == "" {
		//lint:ignore SA1019 old bundles still have them, and leaving them out silently would be worse
		n += len(h.Prestart) + len(h.CreateRuntime) + len(h.Poststart) + len(h.Poststop)
	}
	return n
}

// begin makes the process the leader of its session and puts it into its namespaces and
// cgroups.
func (c *compiler) begin() error {
	c.Note("starting the process")
	c.DefaultSignals()
	c.Call(unix.SYS_SETSID)
	c.Call(unix.SYS_UMASK, launch.Int(0))
	c.hide()
	c.joinCgroups(c.opts.CgroupProcs, c.opts.CgroupDir)
	if err := c.joinNamespaces(); err != nil {
		return err
	}
	// A session keyring of its own, or the container would use the keeper's; keyctl(2).
	// Some hosts deny the call, which then also denies the container every key.
	c.Note("making a keyring")
	c.CallIf(ignore(unix.ENOSYS, unix.EPERM, unix.EACCES), unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), launch.Int(0))
	c.stat = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.self = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.holdPause()
	return nil
}

// hide keeps other containers of a shared PID namespace from tracing this process until
// execve makes it dumpable again; prctl(2), PR_SET_DUMPABLE.
func (c *compiler) hide() {
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_DUMPABLE), launch.Int(0), launch.Int(0), launch.Int(0), launch.Int(0))
}

func (c *compiler) joinCgroups(procs []string, dir string) {
	if len(procs) == 0 {
		return
	}
	c.Note("joining the cgroup")
	born := c.Born()
	for _, p := range procs {
		cond := launch.Cond{}
		if dir != "" && strings.HasPrefix(p, dir+"/") {
			cond.Unless = born
		}
		f := c.CallIf(cond, unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(p), launch.Int(unix.O_WRONLY|cloexec), launch.Int(0))
		cond.When = f
		c.CallIf(cond, unix.SYS_WRITE, launch.Result(f), c.Str("0"), launch.Int(1))
		c.CallIf(cond, unix.SYS_CLOSE, launch.Result(f))
	}
}

func ignore(errnos ...unix.Errno) launch.Cond { return launch.Cond{Ignore: errnos} }
