package seccomp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate sh -c "go run ./internal/mktables $(go list -m -f '{{.Dir}}' golang.org/x/sys)/unix"

// arch is one value of seccomp_data.arch and the tables of calls behind it, by base.
type arch struct {
	audit  uint32
	tables []table
}

// table is the system call numbers of one ABI.
type table struct {
	text    string // "name number" lines
	base    uint32 // added to every number
	private uint32 // numbers from here on are the architecture's own and say nothing of age
	change  func(numbers map[string]uint32)
}

// x32Bit marks calls of the x32 ABI, which shares AUDIT_ARCH_X86_64; asm/unistd.h.
const x32Bit = 0x40000000

// archsOf finds the tables for the named architectures. The native one is always there;
// those this machine cannot execute are left out, for they can never be seen.
func archsOf(names []specs.Arch, goarch string) ([]arch, error) {
	for _, n := range names {
		if !strings.HasPrefix(string(n), "SCMP_ARCH_") {
			return nil, fmt.Errorf("architecture %q: %w", n, errdefs.ErrInvalidArgument)
		}
	}
	switch goarch {
	case "amd64":
		native := arch{unix.AUDIT_ARCH_X86_64, []table{{text: tableAMD64, private: x32Bit}}}
		if slices.Contains(names, specs.ArchX32) {
			native.tables = append(native.tables, table{text: tableAMD64, base: x32Bit, private: 1 << 31, change: x32Numbers})
		} else {
			native.tables = append(native.tables, table{base: x32Bit, private: 1 << 31})
		}
		if slices.Contains(names, specs.ArchX86) {
			return []arch{native, {unix.AUDIT_ARCH_I386, []table{{text: table386, private: 1 << 31}}}}, nil
		}
		return []arch{native}, nil
	case "arm64":
		native := arch{unix.AUDIT_ARCH_AARCH64, []table{{text: tableARM64, private: 1 << 31}}}
		if slices.Contains(names, specs.ArchARM) {
			return []arch{native, {unix.AUDIT_ARCH_ARM, []table{{text: tableARM, private: armPrivate, change: armNumbers}}}}, nil
		}
		return []arch{native}, nil
	case "riscv64":
		return []arch{{unix.AUDIT_ARCH_RISCV64, []table{{text: tableRISCV64, private: 1 << 31}}}}, nil
	}
	return nil, fmt.Errorf("seccomp on %s: %w", goarch, errdefs.ErrNotImplemented)
}

func (t table) numbers() map[string]uint32 {
	m := make(map[string]uint32, 512)
	for line := range strings.Lines(t.text) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			panic("generated table: " + line)
		}
		m[name] = uint32(n)
	}
	if t.change != nil {
		t.change(m)
	}
	for name := range m {
		m[name] += t.base
	}
	return m
}

// x32Numbers replaces the calls that have a number of their own in x32, from 512 on;
// the kernel's arch/x86/entry/syscalls/syscall_64.tbl.
func x32Numbers(m map[string]uint32) {
	for i, name := range strings.Fields(`rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg
		execve ptrace rt_sigpending rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load
		waitid set_robust_list get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg
		sendmmsg process_vm_readv process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2
		pwritev2`) {
		m[name] = 512 + uint32(i)
	}
}

// armPrivate is __ARM_NR_BASE; arch/arm/include/uapi/asm/unistd.h.
const armPrivate = 0xf0000

func armNumbers(m map[string]uint32) {
	for i, name := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"} {
		m[name] = armPrivate + 1 + uint32(i)
	}
}
