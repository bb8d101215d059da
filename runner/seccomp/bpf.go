package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data; seccomp(2).
const (
	offsetNR   = 0
	offsetArch = 4
	offsetArgs = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(v uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
}

func always(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

// jump compares the accumulator with k; jt and jf are instructions to skip.
func jump(op uint16, k uint32, jt, jf uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: jt, Jf: jf, K: k}
}

// backwards is a program that is written from its end, so that the length of what a jump skips is known.
type backwards struct {
	insns []unix.SockFilter // the last first
}

// push puts insns, which are in order, before what is there.
func (b *backwards) push(insns ...unix.SockFilter) {
	for _, in := range slices.Backward(insns) {
		b.insns = append(b.insns, in)
	}
}

// pushJumpUnlessEqual skips n instructions, however many, unless the accumulator is k.
func (b *backwards) pushJumpUnlessEqual(k uint32, n int) {
	if n < 256 {
		b.push(jump(unix.BPF_JEQ, k, 0, uint8(n)))
	} else {
		b.push(jump(unix.BPF_JEQ, k, 1, 0), always(n))
	}
}

// search finds the segment of the call number in the accumulator by halving.
func (b *backwards) search(segs []segment) {
	if len(segs) == 1 {
		b.verdict(segs[0])
		return
	}
	mid := len(segs) / 2
	b.search(segs[mid:])
	behind := len(b.insns)
	b.search(segs[:mid])
	if left := len(b.insns) - behind; left < 256 {
		b.push(jump(unix.BPF_JGE, segs[mid].begin, uint8(left), 0))
	} else {
		b.push(jump(unix.BPF_JGE, segs[mid].begin, 0, 1), always(left))
	}
}

// verdict tries the rules of a segment in turn. The accumulator is lost.
func (b *backwards) verdict(s segment) {
	b.push(ret(s.otherwise))
	for _, r := range slices.Backward(s.rules) {
		b.push(match(r)...)
	}
}

// match returns the rule's action if all conditions hold, else goes on behind itself.
func match(r rule) []unix.SockFilter {
	prog := []unix.SockFilter{ret(r.action)}
	for i := len(r.args) - 1; i >= 0; i-- {
		test := condition
		if r.narrow(r.args[i]) {
			test = narrowCondition
		}
		prog = append(test(r.args[i], uint8(len(prog))), prog...)
	}
	return prog
}

// condition goes on behind itself if a holds and otherwise skips fail instructions more.
// A rule has at most six conditions of at most eight instructions, so all jumps are short.
//
// Arguments are 64 bits and the machine has 32: high words are compared first.
func condition(a specs.LinuxSeccompArg, fail uint8) []unix.SockFilter {
	low := offsetArgs + 8*uint32(a.Index)
	hi, lo := uint32(a.Value>>32), uint32(a.Value)
	loadHigh, loadLow := load(low+4), load(low)
	switch a.Op {
	case specs.OpEqualTo:
		return []unix.SockFilter{loadHigh, jump(unix.BPF_JEQ, hi, 0, fail+2), loadLow, jump(unix.BPF_JEQ, lo, 0, fail)}
	case specs.OpNotEqual:
		return []unix.SockFilter{loadHigh, jump(unix.BPF_JEQ, hi, 0, 2), loadLow, jump(unix.BPF_JEQ, lo, fail, 0)}
	case specs.OpGreaterThan:
		return ordered(loadHigh, loadLow, hi, jump(unix.BPF_JGT, lo, 0, fail), 0, fail)
	case specs.OpGreaterEqual:
		return ordered(loadHigh, loadLow, hi, jump(unix.BPF_JGE, lo, 0, fail), 0, fail)
	case specs.OpLessThan:
		return ordered(loadHigh, loadLow, hi, jump(unix.BPF_JGE, lo, fail, 0), fail, 0)
	case specs.OpLessEqual:
		return ordered(loadHigh, loadLow, hi, jump(unix.BPF_JGT, lo, fail, 0), fail, 0)
	case specs.OpMaskedEqual: // (argument & value) == valueTwo
		and := func(k uint32) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
		}
		return []unix.SockFilter{
			loadHigh, and(hi), jump(unix.BPF_JEQ, uint32(a.ValueTwo>>32), 0, fail+3),
			loadLow, and(lo), jump(unix.BPF_JEQ, uint32(a.ValueTwo), 0, fail),
		}
	}
	panic("operator was checked before")
}

// ordered decides by the high words if they differ (greater and less are instructions to
// skip behind the whole condition), else by last, which compares the low words.
func ordered(loadHigh, loadLow unix.SockFilter, hi uint32, last unix.SockFilter, greater, less uint8) []unix.SockFilter {
	return []unix.SockFilter{
		loadHigh,
		jump(unix.BPF_JGT, hi, greater+3, 0),
		jump(unix.BPF_JEQ, hi, 0, less+2),
		loadLow,
		last,
	}
}
