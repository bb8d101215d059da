package oci

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/seccomp"
)

// becomeUser turns the process into the one the spec describes, except for its program:
// limits, no files, working directory, filter, groups, ids and capabilities.
func (c *compiler) becomeUser() error {
	if err := c.rlimits(); err != nil {
		return err
	}
	caps, err := capabilitySets(c.process)
	if err != nil {
		return err
	}
	if p := c.spec.Linux.Personality; p != nil {
		if err := c.personality(string(p.Domain), len(p.Flags)); err != nil {
			return err
		}
	}
	c.Note("dropping capabilities")
	for n := range 64 {
		if caps.bounding&(1<<n) == 0 {
			c.CallIf(ignore(unix.EINVAL), unix.SYS_PRCTL, launch.Int(unix.PR_CAPBSET_DROP), launch.Int(n), launch.Int(0), launch.Int(0), launch.Int(0))
		}
	}
	c.Note("closing files")
	c.closeFiles()
	there := c.changeDir()
	if !c.process.NoNewPrivileges {
		if err := c.loadSeccomp(); err != nil {
			return err
		}
	}
	c.ids(caps)
	c.checkDir(there)
	return nil
}

// closeFiles closes everything but standard files, files to preserve and the control socket. It comes before
// the working directory is entered, so that none is left to be entered (CVE-2024-21626).
func (c *compiler) closeFiles() {
	control, first := c.Control(), 3+c.preserve
	for fd := 3; fd < first; fd++ {
		c.Call(unix.SYS_FCNTL, launch.Int(fd), launch.Int(unix.F_SETFD), launch.Int(0))
	}
	if control > first {
		c.Call(unix.SYS_CLOSE_RANGE, launch.Int(first), launch.Int(control-1), launch.Int(0))
	}
	c.Call(unix.SYS_CLOSE_RANGE, launch.Int(control+1), launch.Int(^uint32(0)), launch.Int(0))
}

// changeDir tries to enter the working directory with the capabilities of root, as docker
// does: it may be the home of another user.
func (c *compiler) changeDir() launch.Ref {
	c.Note("entering the working directory %s", c.process.Cwd)
	return c.CallIf(ignore(unix.EACCES, unix.EPERM), unix.SYS_CHDIR, c.Str(c.process.Cwd))
}

// checkDir tries again as the user, and then makes sure that the directory is below the
// root: otherwise the kernel's answer begins with "(unreachable)", getcwd(2).
func (c *compiler) checkDir(there launch.Ref) {
	c.Note("entering the working directory %s", c.process.Cwd)
	c.CallIf(launch.Cond{Unless: there}, unix.SYS_CHDIR, c.Str(c.process.Cwd))
	buf := c.Buffer(unix.PathMax)
	c.Call(unix.SYS_GETCWD, buf, launch.Int(unix.PathMax))
	c.Check(launch.Cond{}, buf, 1, 0xff, '/', unix.ENOENT)
}

func (c *compiler) loadSeccomp() error {
	f, err := seccomp.Compile(c.spec.Linux.Seccomp)
	if err != nil || f == nil {
		return err
	}
	if f.Notify {
		return fmt.Errorf("seccomp action SCMP_ACT_NOTIFY: %w", errdefs.ErrNotImplemented)
	}
	c.Note("loading the seccomp filter of %d instructions", len(f.Program))
	code := make([]byte, 0, 8*len(f.Program))
	for _, in := range f.Program {
		code = binary.NativeEndian.AppendUint16(code, in.Code)
		code = append(code, in.Jt, in.Jf)
		code = binary.NativeEndian.AppendUint32(code, in.K)
	}
	prog := c.Bytes(append(launch.Uint64(uint64(len(f.Program))), 0, 0, 0, 0, 0, 0, 0, 0)) // struct sock_fprog
	c.SetPointer(launch.Offset(prog, 8), c.Bytes(code))
	c.Call(unix.SYS_SECCOMP, launch.Int(unix.SECCOMP_SET_MODE_FILTER), launch.Int(f.Flags), prog)
	return nil
}

// ids sets exactly the groups, ids and capabilities of the spec. Capabilities survive the
// change of the user only to be set; nothing is inheritable that the spec does not name.
func (c *compiler) ids(caps capabilities) {
	u := c.process.User
	c.Note("becoming user %d:%d", u.UID, u.GID)
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_KEEPCAPS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
	var groups []byte
	for _, g := range u.AdditionalGids {
		groups = append(groups, launch.Uint32(g)...)
	}
	c.Call(unix.SYS_SETGROUPS, launch.Int(len(u.AdditionalGids)), c.Bytes(groups))
	c.Call(unix.SYS_SETRESGID, launch.Int(u.GID), launch.Int(u.GID), launch.Int(u.GID))
	c.Call(unix.SYS_SETRESUID, launch.Int(u.UID), launch.Int(u.UID), launch.Int(u.UID))
	c.Note("setting capabilities")
	header := c.Bytes(append(launch.Uint32(unix.LINUX_CAPABILITY_VERSION_3), 0, 0, 0, 0))
	var data []byte
	for _, shift := range []int{0, 32} {
		for _, set := range []uint64{caps.effective, caps.permitted, caps.inheritable} {
			data = append(data, launch.Uint32(uint32(set>>shift))...)
		}
	}
	c.Call(unix.SYS_CAPSET, header, c.Bytes(data))
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_KEEPCAPS), launch.Int(0), launch.Int(0), launch.Int(0), launch.Int(0))
	c.CallIf(ignore(unix.EINVAL), unix.SYS_PRCTL, launch.Int(unix.PR_CAP_AMBIENT), launch.Int(unix.PR_CAP_AMBIENT_CLEAR_ALL), launch.Int(0), launch.Int(0), launch.Int(0))
	for n := range 64 {
		if caps.ambient&(1<<n) != 0 {
			c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_CAP_AMBIENT), launch.Int(unix.PR_CAP_AMBIENT_RAISE), launch.Int(n), launch.Int(0), launch.Int(0))
		}
	}
}

// execute sets what comes last and executes the command.
func (c *compiler) execute() error {
	umask := uint32(0o022)
	if u := c.process.User.Umask; u != nil {
		umask = *u & 0o777
	}
	c.Note("executing %s", c.process.Args[0])
	c.Call(unix.SYS_UMASK, launch.Int(umask))
	if c.process.NoNewPrivileges {
		c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_NO_NEW_PRIVS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
		if err := c.loadSeccomp(); err != nil {
			return err
		}
		c.Note("executing %s", c.process.Args[0])
	}
	c.Exec(candidates(c.process.Args[0], c.process.Env), c.process.Args, c.process.Env)
	return nil
}

// candidates are the paths a command may have: itself, or what PATH makes of it. Parts of
// PATH that are not absolute are left out, as Go and runc do.
func candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range slices.Backward(env) { // the last one counts
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
			break
		}
	}
	var list []string
	for dir := range strings.SplitSeq(search, ":") {
		if strings.HasPrefix(dir, "/") {
			list = append(list, strings.TrimSuffix(dir, "/")+"/"+command)
		}
	}
	return list
}

func (c *compiler) rlimits() error {
	seen := map[int]bool{}
	for _, r := range c.process.Rlimits {
		n, ok := rlimitNumber(r.Type)
		if !ok || seen[n] || r.Soft > r.Hard {
			return fmt.Errorf("limit %s: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		seen[n] = true
		c.Note("setting limit %s to %d:%d", r.Type, r.Soft, r.Hard)
		c.Call(unix.SYS_PRLIMIT64, launch.Int(0), launch.Int(n), c.Bytes(append(launch.Uint64(r.Soft), launch.Uint64(r.Hard)...)), launch.Int(0))
	}
	return nil
}

// rlimitNumber is the number of a limit; getrlimit(2).
func rlimitNumber(name string) (int, bool) {
	n := slices.Index([]string{"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS",
		"RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING",
		"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME"}, name)
	return n, n >= 0
}

func (c *compiler) personality(domain string, flags int) error {
	persona := 0
	switch {
	case flags > 0:
		return fmt.Errorf("personality flags: %w", errdefs.ErrNotImplemented)
	case domain == "LINUX32":
		persona = 0x0008 // PER_LINUX32, personality(2)
	case domain != "LINUX":
		return fmt.Errorf("personality %q: %w", domain, errdefs.ErrInvalidArgument)
	}
	c.Note("setting the personality %s", domain)
	c.Call(unix.SYS_PERSONALITY, launch.Int(persona))
	return nil
}

// capabilities are the five sets, as bits.
type capabilities struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// capabilitySets translates the names. Those this process does not have itself cannot be
// given and are left out, as runtime-spec 1.3, config.md, "capabilities", allows.
func capabilitySets(p *specs.Process) (capabilities, error) {
	var s capabilities
	if p.Capabilities == nil {
		return s, nil
	}
	ours, err := ownCapabilities()
	if err != nil {
		return s, err
	}
	for _, set := range []struct {
		bits  *uint64
		names []string
	}{
		{&s.bounding, p.Capabilities.Bounding}, {&s.effective, p.Capabilities.Effective}, {&s.permitted, p.Capabilities.Permitted},
		{&s.inheritable, p.Capabilities.Inheritable}, {&s.ambient, p.Capabilities.Ambient},
	} {
		for _, name := range set.names {
			n, ok := capabilityNumber(name)
			if !ok {
				continue
			}
			*set.bits |= 1 << n & ours
		}
	}
	return s, nil
}

func capabilityNumber(name string) (int, bool) {
	for _, known := range capability.ListKnown() {
		if "CAP_"+strings.ToUpper(known.String()) == name {
			return int(known), true
		}
	}
	return 0, false
}

// ownCapabilities are the permitted capabilities of this process.
func ownCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, (*unix.CapUserData)(unsafe.Pointer(&data))); err != nil {
		return 0, fmt.Errorf("reading own capabilities: %w", err)
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}
