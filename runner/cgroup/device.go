package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devices restricts the use of devices to the rules, of which the last that matches counts.
// No rules are no restriction.
func (g *Group) devices(rules []specs.LinuxDeviceCgroup) error {
	if len(rules) == 0 {
		return nil
	}
	for _, r := range rules {
		if err := checkRule(r); err != nil {
			return err
		}
	}
	if g.host.mode == V2 {
		return attachDevices(g.dir(g.host.hierarchies[0]), rules)
	}
	hi, ok := g.host.find("devices")
	if !ok {
		return nil // as with a host without cgroups
	}
	return devicesV1(g.dir(hi), rules)
}

func checkRule(r specs.LinuxDeviceCgroup) error {
	switch r.Type {
	case "", "a", "b", "c":
	default:
		return fmt.Errorf("type %q: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	if strings.Trim(r.Access, "rwm") != "" {
		return fmt.Errorf("access %q: %w", r.Access, errdefs.ErrInvalidArgument)
	}
	for _, n := range []*int64{r.Major, r.Minor} {
		if n != nil && *n > math.MaxInt32 { // the kernel's are shorter
			return fmt.Errorf("number %d: %w", *n, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// devicesV1 writes what the rules come to to devices.allow and devices.deny;
// Documentation/admin-guide/cgroup-v1/devices.rst.
func devicesV1(dir string, rules []specs.LinuxDeviceCgroup) error {
	v, err := verdictOf(rules)
	if err != nil {
		return err
	}
	rest, but := "devices.deny", "devices.allow"
	if v.allow {
		rest, but = but, rest
	}
	if v.reset {
		if err := writeFile(dir, rest, "a"); err != nil {
			return err
		}
	}
	for _, e := range v.exceptions {
		line := fmt.Sprintf("%s %s:%s %s", e.kind, number(&e.major), number(&e.minor), e.access)
		if err := writeFile(dir, but, line); err != nil {
			return err
		}
	}
	return nil
}

// verdict is what rules come to: all devices may be used, or none, but for exceptions.
type verdict struct {
	allow, reset bool // reset: a rule says so
	exceptions   []exception
}

// exception is one device, or all with a negative number, and letters of "rwm", never none.
type exception struct {
	kind         string
	major, minor int64
	access       string
}

// verdictOf applies the rules in their order. The kernel of version 1 knows exceptions of one kind only, and
// passes over what would be one from them: a device of many that are allowed could not be denied.
func verdictOf(rules []specs.LinuxDeviceCgroup) (verdict, error) {
	v := verdict{allow: true}
	for _, r := range rules {
		if all(r) {
			v = verdict{allow: r.Allow, reset: true}
			continue
		}
		for _, kind := range kinds(r) {
			e := exception{kind: kind, major: -1, minor: -1, access: access(r)}
			if !any1(r.Major) {
				e.major = *r.Major
			}
			if !any1(r.Minor) {
				e.minor = *r.Minor
			}
			if r.Allow != v.allow {
				v.exceptions = append(v.exceptions, e)
			} else if err := v.except(e); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

// except takes e off the exceptions.
func (v *verdict) except(e exception) error {
	wider := func(a, b int64) bool { return a < 0 && b >= 0 }
	var left []exception
	for _, x := range v.exceptions {
		rest := strings.Map(func(letter rune) rune {
			if strings.ContainsRune(e.access, letter) {
				return -1
			}
			return letter
		}, x.access)
		apart := func(a, b int64) bool { return a >= 0 && b >= 0 && a != b }
		switch {
		case x.kind != e.kind || rest == x.access || apart(x.major, e.major) || apart(x.minor, e.minor):
			left = append(left, x)
		case wider(x.major, e.major) || wider(x.minor, e.minor):
			return fmt.Errorf("rule about %s %s:%s %s, a part of what a rule before it says otherwise of, on a host with cgroup v1: %w",
				e.kind, number(&e.major), number(&e.minor), e.access, errdefs.ErrNotImplemented)
		case rest != "":
			x.access = rest
			left = append(left, x)
		}
	}
	v.exceptions = left
	return nil
}

// all says that a rule is about every device and every access.
func all(r specs.LinuxDeviceCgroup) bool {
	return len(kinds(r)) == 2 && any1(r.Major) && any1(r.Minor) && len(access(r)) == 3
}

func kinds(r specs.LinuxDeviceCgroup) []string {
	if r.Type == "" || r.Type == "a" {
		return []string{"b", "c"}
	}
	return []string{r.Type}
}

func access(r specs.LinuxDeviceCgroup) string {
	if r.Access == "" {
		return "rwm"
	}
	return r.Access
}

func any1(n *int64) bool { return n == nil || *n < 0 }

func number(n *int64) string {
	if any1(n) {
		return "*"
	}
	return fmt.Sprint(*n)
}

// instruction is struct bpf_insn; Documentation/bpf/standardization/instruction-set.rst.
type instruction struct {
	code uint8
	regs uint8 // destination, and source in the high four bits
	off  int16
	imm  int32
}

// Registers of the program: what the context says, and the result.
const (
	rResult, rContext = 0, 1
	rType, rAccess    = 2, 3
	rMajor, rMinor    = 4, 5
)

const (
	movImm = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	exit   = unix.BPF_JMP | unix.BPF_EXIT
	jeq    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jne    = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	andImm = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K // 32 bits
	rshImm = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	loadW  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
)

// deviceProgram is the rules as a program of BPF_PROG_TYPE_CGROUP_DEVICE, last rule first.
// Its context is struct bpf_cgroup_dev_ctx: access in the high 16 bits of the first word,
// the type of device in the low ones, then major and minor; linux/bpf.h.
func deviceProgram(rules []specs.LinuxDeviceCgroup) []instruction {
	prog := []instruction{
		{code: loadW, regs: rType | rContext<<4, off: 0},
		{code: andImm, regs: rType, imm: 0xffff},
		{code: loadW, regs: rAccess | rContext<<4, off: 0},
		{code: rshImm, regs: rAccess, imm: 16},
		{code: loadW, regs: rMajor | rContext<<4, off: 4},
		{code: loadW, regs: rMinor | rContext<<4, off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		prog = append(prog, deviceRule(rules[i])...)
	}
	return append(prog, instruction{code: movImm, regs: rResult, imm: 0}, instruction{code: exit})
}

// deviceRule goes on behind itself if the rule does not match, or leaves something to ask: a rule that
// allows takes its access off what is asked for, and is the verdict if that was all; one that denies is
// the verdict if any of its access is still asked for.
func deviceRule(r specs.LinuxDeviceCgroup) []instruction {
	mask := int32(0)
	for bit, letter := range map[int32]string{unix.BPF_DEVCG_ACC_MKNOD: "m", unix.BPF_DEVCG_ACC_READ: "r", unix.BPF_DEVCG_ACC_WRITE: "w"} {
		if strings.Contains(access(r), letter) {
			mask |= bit
		}
	}
	var out []instruction // each jump is to the end
	if k := kinds(r); len(k) == 1 {
		kind := int32(unix.BPF_DEVCG_DEV_CHAR)
		if k[0] == "b" {
			kind = unix.BPF_DEVCG_DEV_BLOCK
		}
		out = append(out, instruction{code: jne, regs: rType, imm: kind})
	}
	if !any1(r.Major) {
		out = append(out, instruction{code: jne, regs: rMajor, imm: int32(*r.Major)})
	}
	if !any1(r.Minor) {
		out = append(out, instruction{code: jne, regs: rMinor, imm: int32(*r.Minor)})
	}
	if r.Allow {
		out = append(out, instruction{code: andImm, regs: rAccess, imm: ^mask & 7},
			instruction{code: jne, regs: rAccess, imm: 0}, instruction{code: movImm, regs: rResult, imm: 1})
	} else { // rResult is scratch here
		out = append(out, instruction{code: unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, regs: rResult | rAccess<<4},
			instruction{code: andImm, regs: rResult, imm: mask}, instruction{code: jeq, regs: rResult, imm: 0},
			instruction{code: movImm, regs: rResult, imm: 0})
	}
	out = append(out, instruction{code: exit})
	for i := range out[:len(out)-1] {
		if out[i].code == jne || out[i].code == jeq {
			out[i].off = int16(len(out) - i - 1)
		}
	}
	return out
}

// attachDevices loads the program for the rules and makes it the only one of the group.
func attachDevices(dir string, rules []specs.LinuxDeviceCgroup) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(fd)
	p, err := lockingMore(func() (int, error) { return loadProgram(deviceProgram(rules)) })
	if err != nil {
		return fmt.Errorf("loading the device program: %w", err)
	}
	defer unix.Close(p)
	if err := replaceProgram(fd, p); err != nil {
		return fmt.Errorf("attaching the device program to %s: %w", filepath.Base(dir), err)
	}
	return nil
}

func loadProgram(prog []instruction) (fd int, err error) {
	license := []byte("Apache-2.0\x00")
	load := struct {
		kind, count uint32
		insns       uint64
		license     uint64
		_           [96]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	runtime.KeepAlive(prog)
	runtime.KeepAlive(license)
	return fd, err
}

// lockingMore calls load again with as much locked memory as may be if a limit of it may have been what refused it: until Linux 5.11 the
// programs of all containers count for it, and the usual 64 KiB are enough for sixteen.
func lockingMore(load func() (int, error)) (int, error) {
	fd, err := load()
	var limit unix.Rlimit
	if err != unix.EPERM || unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil {
		return fd, err
	}
	more := []unix.Rlimit{{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, {Cur: limit.Max, Max: limit.Max}} // the first wants CAP_SYS_RESOURCE
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &more[0]) != nil && unix.Setrlimit(unix.RLIMIT_MEMLOCK, &more[1]) != nil {
		return fd, err
	}
	fd, err = load()
	if e := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); e != nil && err == nil { // the container has the same
		return -1, errors.Join(os.NewSyscallError("setrlimit", e), unix.Close(fd))
	}
	return fd, err
}

// attachment is what BPF_PROG_ATTACH and BPF_PROG_DETACH are told; bpf(2).
type attachment struct{ target, prog, kind, flags, replace uint32 }

// replaceProgram attaches a program to a group as one of several, so that groups below it may have
// some too, those of containers in a container. Those that the group has had go: with this one
// they would all have to allow an access.
func replaceProgram(group, prog int) error {
	old, flags, err := attachedPrograms(group)
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range old {
			unix.Close(p)
		}
	}()
	how := attachment{target: uint32(group), prog: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	left := old
	switch {
	case len(old) > 0 && flags&unix.BPF_F_ALLOW_MULTI == 0: // it was attached as the only one, which this replaces
		how.flags, left = flags, nil
	case len(old) == 1:
		how.flags |= unix.BPF_F_REPLACE
		how.replace, left = uint32(old[0]), nil
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&how), unsafe.Sizeof(how)); err != nil {
		return err
	}
	for _, p := range left {
		gone := attachment{target: uint32(group), prog: uint32(p), kind: unix.BPF_CGROUP_DEVICE}
		if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&gone), unsafe.Sizeof(gone)); err != nil {
			return err
		}
	}
	return nil
}

// attachedPrograms opens the device programs of a group itself, and says how they were attached.
func attachedPrograms(group int) (progs []int, flags uint32, err error) {
	ids := make([]uint32, 64) // BPF_CGROUP_MAX_PROGS
	query := struct {
		target, kind, query, flags uint32
		ids                        uint64
		count                      uint32
		_                          [36]byte
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	_, err = bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	runtime.KeepAlive(ids)
	if err != nil {
		return nil, 0, fmt.Errorf("looking for programs: %w", err)
	}
	for _, id := range ids[:query.count] {
		by := struct{ id, next, flags uint32 }{id: id}
		p, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&by), unsafe.Sizeof(by))
		if errors.Is(err, unix.ENOENT) { // it was detached meanwhile
			continue
		}
		if err != nil {
			for _, p := range progs {
				unix.Close(p)
			}
			return nil, 0, fmt.Errorf("opening program %d: %w", id, err)
		}
		progs = append(progs, p)
	}
	return progs, query.flags, nil
}

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		if e == 0 {
			return int(r), nil
		}
		if !errors.Is(e, unix.EAGAIN) && !errors.Is(e, unix.EINTR) { // the verifier was interrupted
			return 0, e
		}
	}
}
