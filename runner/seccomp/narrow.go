package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// words are the arguments of a call, as bits, that the kernel takes as numbers of 32 bits: what
// is in the upper half of the register is nothing to it. So it must be nothing to a condition
// either, or "greater than 40" lets through what is 40 to the kernel (CVE-2019-7303 and
// CVE-2019-10063 are of this kind). libseccomp compares all 64 bits.
func words(call string) uint8 {
	switch call {
	case "personality", "prctl", "keyctl", "bpf", "socketcall", "setuid", "setgid", "setfsuid", "setfsgid":
		return 1 << 0
	case "ioctl", "fcntl", "fcntl64", "setns", "kill", "tkill", "setreuid", "setregid", "listen", "shutdown":
		return 1<<0 | 1<<1
	case "socket", "socketpair", "setsockopt", "getsockopt", "setresuid", "setresgid", "tgkill":
		return 1<<0 | 1<<1 | 1<<2
	}
	return 0
}

// narrow says whether the lower half of an argument decides a condition. A value that no number of
// 32 bits has is left to mean what it says.
func (r rule) narrow(a specs.LinuxSeccompArg) bool {
	return r.words>>a.Index&1 != 0 && a.Value>>32 == 0 && a.ValueTwo>>32 == 0
}

// narrowCondition is condition for the lower half.
func narrowCondition(a specs.LinuxSeccompArg, fail uint8) []unix.SockFilter {
	word, v := load(offsetArgs+8*uint32(a.Index)), uint32(a.Value)
	switch a.Op {
	case specs.OpEqualTo:
		return []unix.SockFilter{word, jump(unix.BPF_JEQ, v, 0, fail)}
	case specs.OpNotEqual:
		return []unix.SockFilter{word, jump(unix.BPF_JEQ, v, fail, 0)}
	case specs.OpGreaterThan:
		return []unix.SockFilter{word, jump(unix.BPF_JGT, v, 0, fail)}
	case specs.OpGreaterEqual:
		return []unix.SockFilter{word, jump(unix.BPF_JGE, v, 0, fail)}
	case specs.OpLessThan:
		return []unix.SockFilter{word, jump(unix.BPF_JGE, v, fail, 0)}
	case specs.OpLessEqual:
		return []unix.SockFilter{word, jump(unix.BPF_JGT, v, fail, 0)}
	case specs.OpMaskedEqual:
		and := unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: v}
		return []unix.SockFilter{word, and, jump(unix.BPF_JEQ, uint32(a.ValueTwo), 0, fail)}
	}
	panic("operator was checked before")
}
