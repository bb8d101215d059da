package oci

import (
	"bytes"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// compiler is a program in the making.
type compiler struct {
	*launch.Assembler
	spec    *specs.Spec
	process *specs.Process
	rootfs  Rootfs
	opts    Options

	command      string // executed instead of the first argument, if not empty
	sendListener bool   // the starter takes a seccomp listener
	keepGroups   bool   // instead of setting the spec's

	preserve int  // files from 3 on the command gets
	user     bool // it has a user namespace that is not ours
	inside   bool // everything is done in that namespace, for want of rights outside
	mapped   bool // some mount has ids of its own

	null   launch.Ref // the host's /dev/null
	root   launch.Ref // root of the container, a mount
	proc   launch.Ref // a procfs that is mounted nowhere
	mounts launch.Ref // the mount namespace to be joined
	userFD launch.Ref // the user namespace that was made
	there  launch.Ref // the working directory has been entered
	stat   launch.Arg // where fstat writes
	self   launch.Arg // what fstat wrote of the root
	placed []placed   // filesystems we made, in order
	copied bool       // some of them are under copies of theirs; see coverFrom

	sources map[int]launch.Ref    // mounts of the spec that were opened early
	nodes   map[string]launch.Ref // and devices, by their path
	covered map[string]bool       // directories whose owners are mapped where they are

	hasSetAttr bool // the kernel has mount_setattr(2)
	// Of mounts on kernels without it; see setAttr.
	waiting map[launch.Ref][]change // what is to be changed once they have a place
	settled map[launch.Ref]bool     // which have one
	below   map[launch.Ref][]string // what is mounted below them
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
	p, err := compileContainer(s, r, o)
	if err != nil {
		return nil, fmt.Errorf("compiling the container: %w", err)
	}
	return p, nil
}

func compileContainer(s *specs.Spec, r Rootfs, o Options) (*launch.Program, error) {
	c := &compiler{spec: s, process: s.Process, rootfs: r, opts: o, preserve: o.Preserve, keepGroups: o.KeepGroups,
		sources: map[int]launch.Ref{}, nodes: map[string]launch.Ref{}, covered: map[string]bool{},
		waiting: map[launch.Ref][]change{}, settled: map[launch.Ref]bool{}, below: map[launch.Ref][]string{}}
	c.hasSetAttr = !o.oldKernel && mount.CanSetAttr()
	if err := c.supported(); err != nil {
		return nil, err
	}
	if err := c.enoughFiles(); err != nil {
		return nil, err
	}
	slots, err := detachedSlots(s, &c.opts)
	if err != nil {
		return nil, err
	}
	c.Assembler = launch.NewAssembler(launch.Options{Slots: slots, CloneFlags: c.cloneFlags(), CgroupDir: o.CgroupDir})
	for _, step := range []func() error{
		c.begin,
		c.prepare,
		c.joinNamespaces,
		c.arrive,
		c.makeRoot,
		c.makeMounts,
		c.makeDevices,
		c.makeConsole,
		c.makeWorkingDir,
		c.gate,
		c.protectPaths, // after hooks, which may mount and write, and look into /proc
		c.enterRoot,
		c.configure,
		c.pause,
		c.becomeUser,
		c.execute,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return c.Program()
}

// maxPreserve keeps within the slots a program can have.
const maxPreserve = 60

// detachedSlots counts the files a program wants and brings the destinations of those that
// are mounts into the form they are looked up in. Each must be a mount of the spec.
func detachedSlots(s *specs.Spec, o *Options) (int, error) {
	if o.Preserve < 0 || o.Preserve > maxPreserve {
		return 0, fmt.Errorf("%d files to preserve: %w", o.Preserve, errdefs.ErrInvalidArgument)
	}
	first, clean := 3+o.Preserve, map[string]Detached{}
	slots := first
	for dest, d := range o.Detached {
		dest = path.Clean("/" + dest)
		if d.Slot < first || !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return destination(m) == dest }) {
			return 0, fmt.Errorf("file %d is no mount of the spec on %s: %w", d.Slot, dest, errdefs.ErrInvalidArgument)
		}
		clean[dest] = d
		slots = max(slots, d.Slot+1)
	}
	o.Detached = clean
	return slots, nil
}

// supported refuses what would otherwise be left out silently.
func (c *compiler) supported() error {
	s := c.spec
	if s.Process == nil || s.Linux == nil || s.Root == nil {
		return fmt.Errorf("spec has no process, root or linux section: %w", errdefs.ErrInvalidArgument)
	}
	if runtime.GOOS != "linux" {
		return errdefs.ErrNotImplemented
	}
	if err := c.checkNamespaces(); err != nil {
		return err
	}
	if err := checkLabel("mountLabel", s.Linux.MountLabel); err != nil {
		return err
	}
	if s.Linux.Seccomp != nil && s.Linux.Seccomp.ListenerPath != "" && c.opts.Listener == "" {
		return fmt.Errorf("a seccomp monitor: %w", errdefs.ErrNotImplemented)
	}
	if len(s.Linux.NetDevices) > 0 && (c.opts.Gate == "" || !c.ownNamespace(specs.NetworkNamespace)) {
		return fmt.Errorf("network devices without a network namespace: %w", errdefs.ErrInvalidArgument)
	}
	if s.Hooks != nil && c.opts.Gate == "" && hooks(s.Hooks) > 0 {
		return fmt.Errorf("hooks: %w", errdefs.ErrNotImplemented)
	}
	return checkProcess(s.Process)
}

func (c *compiler) checkNamespaces() error {
	if err := checkNamespaces(c.spec); err != nil {
		return err
	}
	if !c.newNamespace(specs.MountNamespace) {
		if !c.kernelAtLeast(6, 15) {
			return fmt.Errorf("container without a mount namespace of its own, on a kernel before 6.15: %w", errdefs.ErrNotImplemented)
		}
		if c.rootfs.Path == "" || c.opts.NoPivot {
			return fmt.Errorf("container without a mount namespace of its own: %w", errdefs.ErrInvalidArgument)
		}
	}
	if len(c.spec.Linux.TimeOffsets) > 0 && !c.newNamespace(specs.TimeNamespace) {
		return fmt.Errorf("time offsets without a new time namespace: %w", errdefs.ErrInvalidArgument)
	}
	for clock := range c.spec.Linux.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return fmt.Errorf("time offset of the clock %q: %w", clock, errdefs.ErrInvalidArgument)
		}
	}
	return c.checkUser()
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return fmt.Errorf("no command: %w", errdefs.ErrInvalidArgument)
	case !strings.HasPrefix(p.Cwd, "/"):
		return fmt.Errorf("working directory %q is not absolute: %w", p.Cwd, errdefs.ErrInvalidArgument)
	}
	for _, id := range append([]uint32{p.User.UID, p.User.GID}, p.User.AdditionalGids...) {
		if id == ^uint32(0) { // "leave it as it is" to setresuid(2): root
			return fmt.Errorf("user or group %d: %w", id, errdefs.ErrInvalidArgument)
		}
	}
	if a := p.ExecCPUAffinity; a != nil { // of commands executed later: it is now that somebody looks
		for _, list := range []string{a.Initial, a.Final} {
			if _, err := parseSet(list); err != nil {
				return fmt.Errorf("processors of execCPUAffinity: %w", err)
			}
		}
	}
	return checkLabels(p)
}

// hooks counts those that somebody has to run.
func hooks(h *specs.Hooks) int {
	//lint:ignore SA1019 old bundles still have them, and leaving them out silently would be worse
	n := len(h.Prestart) + len(h.CreateRuntime) + len(h.Poststart) + len(h.Poststop)
	return n + len(h.CreateContainer) + len(h.StartContainer)
}

// begin makes the process the leader of its session and puts it into its cgroups.
func (c *compiler) begin() error {
	c.Note("starting the process")
	c.stat = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.self = c.Buffer(int(unsafe.Sizeof(unix.Stat_t{})))
	c.DefaultSignals()
	if c.opts.HoldSignals {
		c.Call(unix.SYS_RT_SIGPROCMASK, launch.Int(unix.SIG_SETMASK), c.Bytes(bytes.Repeat([]byte{0xff}, 8)), launch.Int(0), launch.Int(8))
	}
	if !c.forks() {
		c.Call(unix.SYS_SETSID)
	}
	c.Call(unix.SYS_UMASK, launch.Int(0))
	if !c.inside { // else the user could not write its own maps
		c.hide()
	}
	c.guardNull()
	if !c.opts.InCgroup {
		c.joinCgroups(c.opts.CgroupProcs, c.opts.CgroupDir)
	}
	c.resetAffinity()
	c.hold(c.opts.Pause, pauseFD)
	c.hold(c.opts.Gate, gateFD)
	c.hold(c.opts.Listener, listenerFD)
	return nil
}

// arrive is the first thing done in the namespaces.
func (c *compiler) arrive() error {
	switch early := c.opts.Gate != "" || c.opts.Pause != "" || c.process.SelinuxLabel != ""; {
	case c.proc != 0 || !early && !c.needProc():
	case c.sharesPIDs() && (c.inside || !canMountProc()):
		c.openCallersProc()
	case early || c.user:
		c.openProc()
	}
	// A session keyring of its own, or the container would use the keeper's; keyctl(2).
	// Some hosts deny the call, which then also denies the container every key.
	if !c.opts.SharedKeyring {
		c.Note("making a keyring")
		c.labelKeys()
		c.joinKeyring(c.opts.Keyring)
	}
	return nil
}

// joinKeyring makes the session keyring of a name, or enters it if it is there; one without a name is always made.
func (c *compiler) joinKeyring(name string) {
	cond := ignore(unix.ENOSYS, unix.EPERM, unix.EACCES)
	if name == "" {
		c.CallIf(cond, unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), launch.Int(0))
		return
	}
	// A name is looked up in the user namespace, and is found by who may search: its owner too. The rest is what the
	// kernel lets the owner and the possessor do; keyctl_setperm(3).
	const perm = 0x3f1b0000
	ring := c.CallIf(cond, unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), c.Str(name))
	c.CallIf(ignore(launch.AnyError), unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_SETPERM), launch.Result(ring), launch.Int(perm))
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
