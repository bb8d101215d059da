package oci

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/userns"
)

// becomeUser turns the process into the one the spec describes, except for its program:
// limits, no files, working directory, filter, groups, ids and capabilities.
func (c *compiler) becomeUser() error {
	if err := c.rlimits(); err != nil {
		return err
	}
	caps, err := c.capabilitySets()
	if err != nil {
		return err
	}
	if err := c.schedule(); err != nil {
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
	c.changeDir()
	c.setUmask()
	if !c.process.NoNewPrivileges {
		if err := c.loadSeccomp(); err != nil {
			return err
		}
	}
	c.ids(caps)
	return nil
}

// closeFiles closes everything but standard files, files to preserve, the control socket
// and the FIFO of a seccomp listener. It comes before the working directory is entered, so
// that no directory is left to be entered (CVE-2024-21626).
func (c *compiler) closeFiles() {
	control, first := c.Control(), 3+c.preserve
	for fd := 3; fd < first; fd++ {
		c.Call(unix.SYS_FCNTL, launch.Int(fd), launch.Int(unix.F_SETFD), launch.Int(0))
	}
	if control > first {
		c.Call(unix.SYS_CLOSE_RANGE, launch.Int(first), launch.Int(control-1), launch.Int(0))
	}
	last := ^uint32(0)
	if c.opts.Listener != "" {
		c.openListener()
		c.Call(unix.SYS_CLOSE_RANGE, launch.Int(listenerFD+1), launch.Int(last), launch.Int(0))
		last = listenerFD - 1
	}
	c.Call(unix.SYS_CLOSE_RANGE, launch.Int(control+1), launch.Int(last), launch.Int(0))
}

// changeDir tries to enter the working directory with the capabilities of root, as docker
// does: it may be the home of another user. It comes before the seccomp filter, which may
// forbid looking where it is.
func (c *compiler) changeDir() {
	c.Note("entering the working directory %s", c.process.Cwd)
	c.there = c.CallIf(ignore(unix.EACCES, unix.EPERM, unix.ENOENT), unix.SYS_CHDIR, c.Str(c.process.Cwd))
	c.checkDir(launch.Cond{When: c.there})
}

// enterDir tries again as the user and, of an exec, in the PID namespace: there is no /proc/self before.
func (c *compiler) enterDir() {
	c.Note("entering the working directory %s", c.process.Cwd)
	again := c.CallIf(launch.Cond{Unless: c.there}, unix.SYS_CHDIR, c.Str(c.process.Cwd))
	c.checkDir(launch.Cond{When: again})
}

// checkDir makes sure that the directory is below the root: otherwise the kernel's answer
// begins with "(unreachable)", getcwd(2).
func (c *compiler) checkDir(cond launch.Cond) {
	buf := c.Buffer(unix.PathMax)
	c.CallIf(cond, unix.SYS_GETCWD, buf, launch.Int(unix.PathMax))
	c.Check(cond, buf, 1, 0xff, '/', unix.ENOENT)
}

// setUmask is for the command: nothing is made any more.
func (c *compiler) setUmask() {
	umask := uint32(0o022)
	if u := c.process.User.Umask; u != nil {
		umask = *u & 0o777
	}
	c.Call(unix.SYS_UMASK, launch.Int(umask))
}

// ids sets exactly the groups (unless the caller's are kept), ids and capabilities of the spec. Capabilities survive the
// change of the user only to be set; nothing is inheritable that the spec does not name.
func (c *compiler) ids(caps capabilities) {
	u := c.process.User
	c.Note("becoming user %d:%d", u.UID, u.GID)
	c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_KEEPCAPS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
	if !c.keepGroups {
		c.setGroups(u.AdditionalGids)
	}
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

func (c *compiler) setGroups(list []uint32) {
	var groups []byte
	for _, g := range list {
		groups = append(groups, launch.Uint32(g)...)
	}
	cond := launch.Cond{}
	if len(list) == 0 && (c.user || userns.Inside()) {
		cond = ignore(unix.EPERM) // where setgroups is denied there is none to be lost
	}
	c.CallIf(cond, unix.SYS_SETGROUPS, launch.Int(len(list)), c.Bytes(groups))
}

// execute sets what comes last and executes the command.
func (c *compiler) execute() error {
	c.enterDir()
	if c.opts.NoCommand {
		c.Note("executing nothing: the spec has no process")
		c.Fail(launch.Cond{}, unix.EINVAL)
		return nil
	}
	c.NoteExec(c.process.Args[0])
	if c.process.NoNewPrivileges {
		c.Call(unix.SYS_PRCTL, launch.Int(unix.PR_SET_NO_NEW_PRIVS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
		if err := c.loadSeccomp(); err != nil {
			return err
		}
		c.NoteExec(c.process.Args[0])
	}
	command := c.process.Args[0]
	if c.command != "" {
		command = c.command
	}
	c.Exec(candidates(command, c.process.Env), c.process.Args, c.process.Env)
	return nil
}

// candidates are the paths a command may have: itself, or what PATH makes of it. Parts of
// PATH that are not absolute are left out, as Go and runc do.
func candidates(command string, env []string) []string {
	if command == "" || strings.Contains(command, "/") { // none is nowhere, and not the directories of PATH
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

// capabilities are the five sets, as bits.
type capabilities struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// capabilitySets translates the names. Those this process does not have itself cannot be
// given and are left out, as runtime-spec 1.3, config.md, "capabilities", allows. Who
// enters a user namespace has all of them there.
func (c *compiler) capabilitySets() (capabilities, error) {
	var s capabilities
	p := c.process
	if p.Capabilities == nil {
		return s, nil
	}
	ours := ^uint64(0)
	if !c.user {
		var err error
		if ours, err = ownCapabilities(); err != nil {
			return s, err
		}
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
	s.ambient &= s.inheritable & s.permitted // capabilities(7): others cannot be raised
	return s, nil
}

// Ungrantable names what a process will not get of its capabilities: names nobody knows,
// and ambient ones that are not inheritable and permitted too. Root has what it may have
// without them: buildah gives all of them to every command.
func Ungrantable(p *specs.Process) []string {
	if p == nil || p.Capabilities == nil {
		return nil
	}
	caps := p.Capabilities
	var list, ambient []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient)))) {
		permitted := slices.Contains(caps.Permitted, name)
		root := p.User.UID == 0 && permitted && slices.Contains(caps.Bounding, name)
		switch _, known := capabilityNumber(name); {
		case !known:
			list = append(list, fmt.Sprintf("ignoring unknown capability %s", name))
		case slices.Contains(caps.Ambient, name) && !root && !(permitted && slices.Contains(caps.Inheritable, name)):
			ambient = append(ambient, name)
		}
	}
	if len(ambient) > 0 {
		list = append(list, fmt.Sprintf("can't raise ambient capability %s: not inheritable and permitted", strings.Join(ambient, ", ")))
	}
	return list
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
