package seccomp

import (
	"fmt"
	"iter"
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
	own     string // more lines, which replace those of the same names
}

// x32Bit marks calls of the x32 ABI, which shares AUDIT_ARCH_X86_64; asm/unistd.h.
const x32Bit = 0x40000000

// known are the architectures of runtime-spec 1.3, config-linux.md, "Seccomp".
var known = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// archsOf finds the tables for the named architectures. The native one is always there;
// those this machine cannot execute are left out, for they can never be seen.
func archsOf(names []specs.Arch, goarch string) ([]arch, error) {
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("architecture %q: %w", n, errdefs.ErrInvalidArgument)
		}
	}
	switch goarch {
	case "amd64":
		native := arch{unix.AUDIT_ARCH_X86_64, []table{{text: tableAMD64, private: x32Bit}}}
		if slices.Contains(names, specs.ArchX32) {
			native.tables = append(native.tables, table{text: tableAMD64, base: x32Bit, private: 1 << 31, own: ownX32})
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
			return []arch{native, {unix.AUDIT_ARCH_ARM, []table{{text: tableARM, private: armPrivate, own: ownARM}}}}, nil
		}
		return []arch{native}, nil
	case "riscv64":
		return []arch{{unix.AUDIT_ARCH_RISCV64, []table{{text: tableRISCV64, private: 1 << 31}}}}, nil
	}
	return nil, fmt.Errorf("seccomp on %s: %w", goarch, errdefs.ErrNotImplemented)
}

// calls goes through the names and numbers of the table, by number: those of own are the highest.
func (t table) calls() iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		own := map[string]bool{}
		for name := range lines(t.own) {
			own[name] = true
		}
		for name, nr := range lines(t.text) {
			if (len(own) == 0 || !own[name]) && !yield(name, t.base+nr) {
				return
			}
		}
		for name, nr := range lines(t.own) {
			if !yield(name, t.base+nr) {
				return
			}
		}
	}
}

// lines goes through the lines of a table's text.
func lines(text string) iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		for line := range strings.Lines(text) {
			name, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			nr, err := strconv.ParseUint(number, 10, 32)
			if err != nil {
				panic("table of system calls: " + line)
			}
			if !yield(name, uint32(nr)) {
				return
			}
		}
	}
}

// ownX32 are the calls that have a number of their own in x32;
// the kernel's arch/x86/entry/syscalls/syscall_64.tbl.
const ownX32 = `rt_sigaction 512
rt_sigreturn 513
ioctl 514
readv 515
writev 516
recvfrom 517
sendmsg 518
recvmsg 519
execve 520
ptrace 521
rt_sigpending 522
rt_sigtimedwait 523
rt_sigqueueinfo 524
sigaltstack 525
timer_create 526
mq_notify 527
kexec_load 528
waitid 529
set_robust_list 530
get_robust_list 531
vmsplice 532
move_pages 533
preadv 534
pwritev 535
rt_tgsigqueueinfo 536
recvmmsg 537
sendmmsg 538
process_vm_readv 539
process_vm_writev 540
setsockopt 541
getsockopt 542
io_setup 543
io_submit 544
execveat 545
preadv2 546
pwritev2 547`

// armPrivate is __ARM_NR_BASE; arch/arm/include/uapi/asm/unistd.h.
const (
	armPrivate = 0xf0000
	ownARM     = `breakpoint 983041
cacheflush 983042
usr26 983043
usr32 983044
set_tls 983045
get_tls 983046`
)
