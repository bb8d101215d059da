package oci

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// How a container with a user namespace is made.
//
// As root, the first process does with the host's rights what needs them: it opens the
// root, the sources of bind mounts and devices as mounts without a place, joins cgroups
// and given namespaces. Then it enters the user namespace and forks; the child's other
// namespaces belong to the container, and so does everything it does from there on.
//
// Without the right to mount (inside), the user namespace comes first and everything is
// done in it.

// checkUser decides whether the container has a user namespace that is not our own, and
// where its mounts are made.
func (c *compiler) checkUser() error {
	l := c.spec.Linux
	c.mapped = slices.ContainsFunc(c.spec.Mounts, idMapped)
	given := ""
	for _, ns := range l.Namespaces {
		if ns.Type == specs.UserNamespace {
			c.user, given = true, ns.Path
		}
	}
	if !c.user {
		if len(l.UIDMappings)+len(l.GIDMappings) > 0 {
			return fmt.Errorf("id mappings without a user namespace: %w", errdefs.ErrInvalidArgument)
		}
		return nil
	}
	if given != "" {
		same, err := sameNamespace(given, "/proc/self/ns/user")
		if err != nil {
			return fmt.Errorf("user namespace: %w", classify(err))
		}
		c.user = !same // the kernel refuses to enter it again
	} else {
		for _, m := range [][]specs.LinuxIDMapping{l.UIDMappings, l.GIDMappings} {
			if err := checkMapping(m); err != nil {
				return err
			}
		}
	}
	caps, err := ownCapabilities()
	if err != nil {
		return err
	}
	c.inside = c.user && caps&(1<<unix.CAP_SYS_ADMIN) == 0
	if c.opts.UserOfNetwork && (!c.user || given != "" || c.netPath() == "") {
		return fmt.Errorf("the user namespace of a network namespace that is not given: %w", errdefs.ErrInvalidArgument)
	}
	return c.checkMapped()
}

func sameNamespace(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// maxMappings is the kernel's limit, user_namespaces(7).
const maxMappings = 340

// checkMapping wants a mapping that has the container's root: without one nothing could be
// mounted or made there.
func checkMapping(list []specs.LinuxIDMapping) error {
	root := false
	for _, m := range list {
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > 1<<32 || uint64(m.HostID)+uint64(m.Size) > 1<<32 {
			return fmt.Errorf("id mapping %d:%d:%d: %w", m.ContainerID, m.HostID, m.Size, errdefs.ErrInvalidArgument)
		}
		root = root || m.ContainerID == 0
	}
	if !root || len(list) > maxMappings {
		return fmt.Errorf("user namespace whose %d id mappings do not map root: %w", len(list), errdefs.ErrInvalidArgument)
	}
	return nil
}

// mappingText is the form of /proc/PID/uid_map.
func mappingText(list []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// userNamespace is a descriptor of the container's new user namespace, made or found once.
func (c *compiler) userNamespace() launch.Ref {
	switch {
	case c.userFD != 0:
	case c.opts.UserOfNetwork:
		net := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str(c.netPath()), launch.Int(unix.O_RDONLY|cloexec), launch.Int(0))
		c.userFD = c.Call(unix.SYS_IOCTL, launch.Result(net), launch.Int(unix.NS_GET_USERNS))
		c.Call(unix.SYS_CLOSE, launch.Result(net))
	default:
		c.userFD = c.UserNamespace(mappingText(c.spec.Linux.UIDMappings), mappingText(c.spec.Linux.GIDMappings), c.inside)
	}
	return c.userFD
}

// netPath is the path of a network namespace that is given.
func (c *compiler) netPath() string {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}

// enterUser makes the process root of the container's user namespace.
func (c *compiler) enterUser(given launch.Ref) {
	c.Note("entering the user namespace")
	if given == 0 {
		given = c.userNamespace()
	}
	c.Call(unix.SYS_SETNS, launch.Result(given), launch.Int(unix.CLONE_NEWUSER))
	if !c.keepGroups {
		c.CallIf(ignore(unix.EPERM), unix.SYS_SETGROUPS, launch.Int(0), launch.Int(0)) // denied where it was denied before
	}
	c.Call(unix.SYS_SETRESGID, launch.Int(0), launch.Int(0), launch.Int(0))
	c.Call(unix.SYS_SETRESUID, launch.Int(0), launch.Int(0), launch.Int(0))
}

// prepare does with the host's rights what the container's own could not: it raises
// limits, opens the root, what is bound into it and its devices.
func (c *compiler) prepare() error {
	if !c.user || c.inside {
		return c.prepareShared()
	}
	if err := c.raiseLimits(); err != nil {
		return err
	}
	if adj := c.process.OOMScoreAdj; adj != nil {
		c.Note("setting oom_score_adj")
		fd := c.Call(unix.SYS_OPENAT, launch.Int(atFDCWD), c.Str("/proc/self/oom_score_adj"), launch.Int(unix.O_WRONLY|cloexec), launch.Int(0))
		text := fmt.Sprint(*adj)
		c.Call(unix.SYS_WRITE, launch.Result(fd), c.Str(text), launch.Int(len(text)))
		c.Call(unix.SYS_CLOSE, launch.Result(fd))
	}
	c.takeMounts()
	if err := c.prepareMounts(func(m specs.Mount, o mountOptions) bool { return o.isBind(m) }); err != nil {
		return err
	}
	if c.newNamespace(specs.MountNamespace) {
		c.separate()
	}
	// Layers whose owners are mapped are covered, which the host must not see.
	if err := c.prepareMounts(func(m specs.Mount, o mountOptions) bool { return !o.isBind(m) }); err != nil {
		return err
	}
	if err := c.openRoot(); err != nil {
		return err
	}
	if !c.newNamespace(specs.PIDNamespace) {
		c.openCallersProc()
	}
	for _, d := range c.allDevices() {
		if d.Type != "p" {
			c.nodes[d.Path] = c.openNode(d)
		}
	}
	return nil
}

// prepareShared opens the mounts that are to stay peers of the host's, which they would
// not be once the mount namespace is separated, and those whose ids are mapped.
func (c *compiler) prepareShared() error {
	if c.inside {
		return nil
	}
	c.takeMounts()
	return c.prepareMounts(func(m specs.Mount, o mountOptions) bool { return idMapped(m) || (o.shared() && sharedMount(m.Source)) })
}

// prepareMounts opens the sources of some bind mounts and the overlays.
func (c *compiler) prepareMounts(which func(specs.Mount, mountOptions) bool) error {
	for i, m := range c.spec.Mounts {
		o, err := parseOptions(m.Options)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
		if o.remount || !(o.isBind(m) || m.Type == "overlay") || !which(m, o) {
			continue
		}
		if _, ok := c.opts.Detached[destination(m)]; ok || c.sources[i] != 0 {
			continue
		}
		if c.sources[i], err = c.openSource(m, o); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
	}
	return nil
}

// sharedMount says that what is mounted in or after path appears elsewhere too.
func sharedMount(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st) != nil { // Linux 5.8
		return false
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) { // "36 35 98:0 / /mnt rw shared:1 - ext3 ..."
		before, _, _ := strings.Cut(line, " - ")
		if id, _, _ := strings.Cut(line, " "); id == fmt.Sprint(st.Mnt_id) {
			return strings.Contains(before, " shared:")
		}
	}
	return false
}
