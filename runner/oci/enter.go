package oci

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/userns"
)

// makeWorkingDir makes the working directory inside the root if it is missing, as docker
// and runc do. Whether it is good is seen when the process goes there.
func (c *compiler) makeWorkingDir() error {
	c.Note("making the working directory %s", c.process.Cwd)
	fd := c.TargetIf(ignore(launch.AnyError), launch.Result(c.root), c.process.Cwd, unix.S_IFDIR|0o755)
	c.Call(unix.SYS_CLOSE, launch.Result(fd))
	return nil
}

// enterRoot makes the root the process's own and lets go of the host's; pivot_root(2),
// "pivot_root(".", ".")". Without a mount namespace of its own the process goes into the
// root alone.
func (c *compiler) enterRoot() error {
	c.Note("entering the root")
	own := c.newNamespace(specs.MountNamespace)
	if c.mounts != 0 {
		c.Call(unix.SYS_SETNS, launch.Result(c.mounts), launch.Int(unix.CLONE_NEWNS))
	}
	c.Call(unix.SYS_FCHDIR, launch.Result(c.root))
	if own && !c.opts.NoPivot {
		c.Call(unix.SYS_PIVOT_ROOT, c.Str("."), c.Str("."))
		c.Call(unix.SYS_UMOUNT2, c.Str("."), launch.Int(unix.MNT_DETACH))
	} else {
		c.Call(unix.SYS_CHROOT, c.Str("."))
	}
	c.Call(unix.SYS_CHDIR, c.Str("/"))
	if own && !c.opts.NoPivot {
		// "/.." is what is mounted on the root. If that is not the root, the host still is.
		top := c.openat2(launch.Cond{}, launch.Int(atFDCWD), "/..", unix.O_PATH|unix.O_DIRECTORY, 0)
		c.fstat(launch.Cond{}, top, c.stat)
		other := c.Differ(ignore(unix.EBUSY), c.stat, c.self, sameFile, unix.EBUSY)
		c.Fail(launch.Cond{When: other}, unix.EBUSY)
	}
	if kind := c.spec.Linux.RootfsPropagation; kind != "" { // a shared root could not have been entered
		if !own {
			return c.propagate(c.root, kind)
		}
		flags, err := propagationFlags(kind)
		c.Call(unix.SYS_MOUNT, c.Str(""), c.Str("/"), c.Str(""), launch.Int(flags), launch.Int(0))
		return err
	}
	return nil
}

// configure sets what belongs to the namespaces: names, the loopback device, sysctls.
func (c *compiler) configure() error {
	if err := c.names(); err != nil {
		return err
	}
	if c.newNamespace(specs.NetworkNamespace) {
		c.loopback()
	}
	if c.proc == 0 && c.needProc() {
		c.openProc()
	}
	if err := c.sysctls(); err != nil {
		return err
	}
	return c.labels()
}

// needProc says that something has to be written to procfs.
func (c *compiler) needProc() bool {
	p := c.process
	return len(c.spec.Linux.Sysctl) > 0 || (p.OOMScoreAdj != nil && !c.scored()) || p.ApparmorProfile != "" || p.SelinuxLabel != ""
}

// needLabels is needProc for an exec, whose sysctls are set.
func (c *compiler) needLabels() bool {
	p := c.process
	return p.OOMScoreAdj != nil || p.ApparmorProfile != "" || p.SelinuxLabel != ""
}

// scored says that oom_score_adj was set before the user namespace was entered, in which
// it cannot be lowered.
func (c *compiler) scored() bool { return c.user && !c.inside }

func (c *compiler) names() error {
	for _, n := range []struct {
		what, value string
		nr          uintptr
	}{{"host", c.spec.Hostname, unix.SYS_SETHOSTNAME}, {"domain", c.spec.Domainname, unix.SYS_SETDOMAINNAME}} {
		if n.value == "" {
			continue
		}
		if !c.mayChange(specs.UTSNamespace) {
			return fmt.Errorf("%s name without a UTS namespace: %w", n.what, errdefs.ErrInvalidArgument)
		}
		c.Note("setting the %s name", n.what)
		cond := launch.Cond{}
		if userns.Filtered() && userns.Inside() { // podman's filter lets its containers make all but names
			cond = ignore(unix.EPERM)
		}
		c.CallIf(cond, n.nr, c.Str(n.value), launch.Int(len(n.value)))
	}
	return nil
}

// loopback brings lo up; netdevice(7), struct ifreq.
func (c *compiler) loopback() {
	c.Note("bringing the loopback device up")
	s := c.Call(unix.SYS_SOCKET, launch.Int(unix.AF_INET), launch.Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), launch.Int(0))
	req := make([]byte, 40)
	copy(req, "lo")
	*(*uint16)(unsafe.Pointer(&req[16])) = unix.IFF_UP | unix.IFF_RUNNING
	c.Call(unix.SYS_IOCTL, launch.Result(s), launch.Int(unix.SIOCSIFFLAGS), c.Bytes(req))
	c.Call(unix.SYS_CLOSE, launch.Result(s))
}

// openProc makes a procfs that is mounted nowhere, so that no mount of the container can
// redirect what is written to it (CVE-2025-52881).
func (c *compiler) openProc() {
	c.Note("opening a private procfs")
	c.proc = c.filesystem("proc", "proc", 0)
}

// openCallersProc does without a mount: nothing of the container's is on /proc yet.
func (c *compiler) openCallersProc() {
	c.Note("opening the host's procfs")
	c.proc = c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str("/proc"), launch.Int(unix.O_PATH|unix.O_DIRECTORY|cloexec), launch.Int(0))
}

// sharesPIDs says that the container has no PID namespace but ours.
func (c *compiler) sharesPIDs() bool {
	return !slices.ContainsFunc(c.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
}

// canMountProc says whether the kernel lets us mount a procfs of our own PID namespace: one
// that belongs to the host does not let root of a user namespace, such as podman's of an
// ordinary user.
func canMountProc() bool {
	if !userns.Inside() {
		return true
	}
	ns, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return true // the mount will tell
	}
	defer ns.Close()
	owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err == nil {
		unix.Close(owner)
	}
	return err != unix.EPERM // ioctl_nsfs(2): the owner is above ours
}

// writeProc writes a value to a file of the private procfs.
func (c *compiler) writeProc(file, value string) {
	fd := c.openat2(launch.Cond{}, launch.Result(c.proc), file, unix.O_WRONLY, ownFiles)
	c.Call(unix.SYS_WRITE, launch.Result(fd), c.Str(value), launch.Int(len(value)))
	c.Call(unix.SYS_CLOSE, launch.Result(fd))
}

func (c *compiler) sysctls() error {
	names := make([]string, 0, len(c.spec.Linux.Sysctl))
	for name := range c.spec.Linux.Sysctl {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		value := c.spec.Linux.Sysctl[name]
		file, err := c.sysctlFile(name, value)
		if err != nil {
			return err
		}
		c.Note("setting sysctl %s", name)
		c.writeProc("sys/"+file, value)
	}
	return nil
}

// sysctlFile is the file of a sysctl that belongs to a namespace of the container. Any
// other would change the host, and is refused however it is spelled.
func (c *compiler) sysctlFile(name, value string) (string, error) {
	// Dots and slashes change their parts if a slash comes first: sysctl.d(5).
	file := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		file = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	for _, r := range file {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-./@:", r) {
			return "", fmt.Errorf("sysctl %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	for _, part := range strings.Split(file, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("sysctl %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	if len(value) > 4096 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' }) {
		return "", fmt.Errorf("value of sysctl %s: %w", name, errdefs.ErrInvalidArgument)
	}
	owner, ok := sysctlOwner(file)
	if !ok || !c.mayChange(owner) {
		return "", fmt.Errorf("sysctl %s does not belong to a namespace of the container: %w", name, errdefs.ErrInvalidArgument)
	}
	return file, nil
}

// sysctlOwner is the kind of namespace a sysctl is part of.
func sysctlOwner(file string) (specs.LinuxNamespaceType, bool) {
	switch file {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax",
		"kernel/shmmni", "kernel/shm_rmid_forced":
		return specs.IPCNamespace, true
	case "kernel/domainname": // not hostname, which has a field of its own
		return specs.UTSNamespace, true
	}
	if strings.HasPrefix(file, "fs/mqueue/") {
		return specs.IPCNamespace, true
	}
	if strings.HasPrefix(file, "net/") {
		return specs.NetworkNamespace, true
	}
	return "", false
}

// labels sets what procfs keeps of the process itself.
func (c *compiler) labels() error {
	if adj := c.process.OOMScoreAdj; adj != nil && !c.scored() {
		c.Note("setting oom_score_adj")
		c.writeProc("self/oom_score_adj", fmt.Sprint(*adj))
	}
	if p := c.process.ApparmorProfile; p != "" && p != "unconfined" {
		c.Note("setting the AppArmor profile %s", p)
		c.writeProc("thread-self/attr/apparmor/exec", "exec "+p)
	}
	if l := c.process.SelinuxLabel; l != "" {
		c.Note("setting the SELinux label %s", l)
		c.writeProc("thread-self/attr/exec", l)
	}
	return nil
}

// gate waits for the hooks that run before the root is entered.
func (c *compiler) gate() error {
	if c.opts.Gate != "" {
		c.Note("waiting for hooks")
		c.Pause(launch.Result(c.proc), fmt.Sprintf("self/fd/%d", gateFD))
	}
	return nil
}

// Where FIFOs are held, unopened, while the host can be seen, and a directory while it is covered.
const (
	pauseFD    = firstFD - 3
	gateFD     = firstFD - 4
	listenerFD = firstFD - 5
	procFD     = firstFD - 6
	coveredFD  = firstFD - 7
	nullFD     = firstFD - 8
)

// hold finds a FIFO before the host's root, or the user that may reach it, is left.
func (c *compiler) hold(fifo string, at int) {
	if fifo == "" {
		return
	}
	c.Note("finding the FIFO %s", fifo)
	fd := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(fifo), launch.Int(unix.O_PATH|unix.O_NOFOLLOW|cloexec), launch.Int(0))
	c.fstat(launch.Cond{}, fd, c.stat)
	c.checkMode(launch.Cond{}, unix.S_IFIFO, unix.EINVAL)
	c.Call(unix.SYS_DUP3, launch.Result(fd), launch.Int(at), launch.Int(cloexec))
	c.Call(unix.SYS_CLOSE, launch.Result(fd))
}

// pause waits until the command is to be started: opening a FIFO for writing waits for a
// reader. The descriptor is no way out: until execve nobody in the container can look at
// this process (hide), and becomeUser closes it.
func (c *compiler) pause() error {
	if c.opts.Pause != "" {
		if !c.opts.NoCommand {
			c.findCommand()
		}
		c.closeMounts()
		c.Note("waiting for the start")
		c.Pause(launch.Result(c.proc), fmt.Sprintf("self/fd/%d", pauseFD))
	}
	return nil
}

// closeMounts lets go of everything that made the root: a container that is not started
// for long holds no mount, and whoever looks at its process finds no way to one.
func (c *compiler) closeMounts() {
	c.Note("closing what is mounted")
	proc := c.Call(unix.SYS_DUP3, launch.Result(c.proc), launch.Int(procFD), launch.Int(cloexec))
	if first := 3 + c.preserve; c.Control() > first {
		c.Call(unix.SYS_CLOSE_RANGE, launch.Int(first), launch.Int(c.Control()-1), launch.Int(0))
	}
	c.Call(unix.SYS_CLOSE_RANGE, launch.Int(c.Control()+1), launch.Int(procFD-1), launch.Int(0))
	c.Call(unix.SYS_CLOSE_RANGE, launch.Int(firstFD-2), launch.Int(^uint32(0)), launch.Int(0))
	c.proc = proc
}

// findCommand fails if there is no such command or nobody can execute it, so that a create
// says so and not only its start. Whether the user may execute it is seen then.
func (c *compiler) findCommand() {
	list := candidates(c.process.Args[0], c.process.Env)
	if len(list) == 0 || !strings.HasPrefix(list[0], "/") {
		return
	}
	c.NoteExec(c.process.Args[0])
	missing, denied := c.Bytes(launch.Uint32(1)), c.Bytes(launch.Uint32(1))
	for _, file := range list {
		found := c.CallIf(ignore(launch.AnyError), sysFstatat, launch.Int(atFDCWD), c.Str(file), c.stat, launch.Int(0))
		c.Store(missing, launch.Result(found), 4) // 0, and only if it is there
		regular := c.checkMode(launch.Cond{When: found, Ignore: []unix.Errno{unix.EACCES}}, unix.S_IFREG, unix.EACCES)
		can := c.CallIf(launch.Cond{When: regular, Ignore: []unix.Errno{launch.AnyError}}, unix.SYS_FACCESSAT,
			launch.Int(atFDCWD), c.Str(file), launch.Int(unix.X_OK))
		c.Store(denied, launch.Result(can), 4)
	}
	c.Check(launch.Cond{}, missing, 4, 1, 0, unix.ENOENT)
	c.Check(launch.Cond{}, denied, 4, 1, 0, unix.EACCES)
}
