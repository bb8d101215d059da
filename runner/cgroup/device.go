package cgroup

import (
	"errors"
	"fmt"
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
	return nil
}

// devicesV1 writes the rules to devices.allow and devices.deny;
// Documentation/admin-guide/cgroup-v1/devices.rst.
func devicesV1(dir string, rules []specs.LinuxDeviceCgroup) error {
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		if all(r) {
			if err := writeFile(dir, file, "a"); err != nil {
				return err
			}
			continue
		}
		for _, kind := range kinds(r) {
			line := fmt.Sprintf("%s %s:%s %s", kind, number(r.Major), number(r.Minor), access(r))
			if err := writeFile(dir, file, line); err != nil {
				return err
			}
		}
	}
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

// deviceRule returns the rule's verdict if it matches and otherwise goes on behind itself.
// A rule that allows matches if all the access asked for is in it, one that denies if any is.
func deviceRule(r specs.LinuxDeviceCgroup) []instruction {
	verdict, mask := int32(0), int32(0)
	for bit, letter := range map[int32]string{unix.BPF_DEVCG_ACC_MKNOD: "m", unix.BPF_DEVCG_ACC_READ: "r", unix.BPF_DEVCG_ACC_WRITE: "w"} {
		if strings.Contains(access(r), letter) {
			mask |= bit
		}
	}
	var tests []instruction // each jumps to the end if the rule does not match
	if k := kinds(r); len(k) == 1 {
		kind := int32(unix.BPF_DEVCG_DEV_CHAR)
		if k[0] == "b" {
			kind = unix.BPF_DEVCG_DEV_BLOCK
		}
		tests = append(tests, instruction{code: jne, regs: rType, imm: kind})
	}
	if !any1(r.Major) {
		tests = append(tests, instruction{code: jne, regs: rMajor, imm: int32(*r.Major)})
	}
	if !any1(r.Minor) {
		tests = append(tests, instruction{code: jne, regs: rMinor, imm: int32(*r.Minor)})
	}
	// rResult is scratch here: the access asked for, without (allow) or within (deny) the rule's.
	copyAccess := instruction{code: unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, regs: rResult | rAccess<<4}
	if r.Allow {
		verdict = 1
		tests = append(tests, copyAccess, instruction{code: andImm, regs: rResult, imm: ^mask & 7},
			instruction{code: jne, regs: rResult, imm: 0})
	} else {
		tests = append(tests, copyAccess, instruction{code: andImm, regs: rResult, imm: mask},
			instruction{code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, regs: rResult, imm: 0})
	}
	out := append(tests, instruction{code: movImm, regs: rResult, imm: verdict}, instruction{code: exit})
	for i := range tests {
		if out[i].code&7 == unix.BPF_JMP {
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
	prog := deviceProgram(rules)
	license := []byte("Apache-2.0\x00")
	load := struct {
		kind, count uint32
		insns       uint64
		license     uint64
		_           [96]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	p, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	runtime.KeepAlive(prog)
	runtime.KeepAlive(license)
	if err != nil {
		return fmt.Errorf("loading the device program: %w", err)
	}
	defer unix.Close(p)
	// Without flags a second attach replaces the first.
	attach := struct{ target, prog, kind, flags, replace uint32 }{uint32(fd), uint32(p), unix.BPF_CGROUP_DEVICE, 0, 0}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attaching the device program to %s: %w", filepath.Base(dir), err)
	}
	return nil
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
