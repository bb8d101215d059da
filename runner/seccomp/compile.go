package seccomp

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// segment is a range of call numbers, up to the begin of the next, that share a verdict:
// either rules with conditions, then otherwise, or otherwise alone.
type segment struct {
	begin     uint32
	rules     []rule
	otherwise uint32
}

// rule is one alternative: if all conditions hold, the action.
type rule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

func compile(s *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	flags, err := loadFlags(s.Flags)
	if err != nil {
		return nil, err
	}
	fallback, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	archs, err := archsOf(s.Architectures, goarch)
	if err != nil {
		return nil, err
	}
	notify := fallback == unix.SECCOMP_RET_USER_NOTIF
	prog := []unix.SockFilter{load(offsetArch)}
	for _, a := range archs {
		segs, n, err := segments(s, a, fallback)
		if err != nil {
			return nil, err
		}
		notify = notify || n
		body := append([]unix.SockFilter{load(offsetNR)}, search(segs)...)
		prog = append(prog, jumpUnlessEqual(a.audit, len(body))...)
		prog = append(prog, body...)
	}
	prog = append(prog, ret(unix.SECCOMP_RET_KILL_PROCESS))
	if len(prog) > maxInstructions {
		return nil, fmt.Errorf("filter of %d instructions: %w", len(prog), errdefs.ErrInvalidArgument)
	}
	return &Filter{Program: prog, Flags: flags, Notify: notify}, nil
}

// segments sorts what the profile says about one architecture by call number.
func segments(s *specs.LinuxSeccomp, a arch, fallback uint32) (segs []segment, notify bool, err error) {
	calls := map[uint32]*segment{}
	newest := make([]uint32, len(a.tables))
	for i, t := range a.tables {
		numbers := t.numbers()
		for _, sc := range s.Syscalls {
			act, err := action(sc.Action, sc.ErrnoRet)
			if err != nil {
				return nil, false, err
			}
			rules, err := rulesOf(sc, act)
			if err != nil {
				return nil, false, err
			}
			for _, name := range sc.Names {
				nr, ok := numbers[name]
				if !ok {
					continue
				}
				if nr < t.private {
					newest[i] = max(newest[i], nr)
				}
				if act == fallback {
					continue
				}
				notify = notify || act == unix.SECCOMP_RET_USER_NOTIF
				addRules(calls, nr, rules, act, fallback)
			}
		}
	}
	for _, c := range calls {
		segs = append(segs, *c)
	}
	slices.SortFunc(segs, func(a, b segment) int { return int(int64(a.begin) - int64(b.begin)) })
	unknown := fallback
	if !permissive(s.DefaultAction) {
		unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return fill(segs, a, newest, fallback, unknown), notify, nil
}

func addRules(calls map[uint32]*segment, nr uint32, rules []rule, act, fallback uint32) {
	c := calls[nr]
	if c == nil {
		c = &segment{begin: nr, otherwise: fallback}
		calls[nr] = c
	}
	if len(rules) > 0 {
		c.rules = append(c.rules, rules...)
	} else {
		c.otherwise = act
	}
}

// fill adds the ranges between the calls, each with the fallback up to the newest call of
// its table and unknown above, and merges neighbours that are alike.
func fill(calls []segment, a arch, newest []uint32, fallback, unknown uint32) []segment {
	var segs []segment
	add := func(s segment) {
		if n := len(segs); n > 0 && len(s.rules) == 0 && len(segs[n-1].rules) == 0 && segs[n-1].otherwise == s.otherwise {
			return
		}
		segs = append(segs, s)
	}
	for i, t := range a.tables {
		next, end := t.base, uint64(1)<<32
		if i+1 < len(a.tables) {
			end = uint64(a.tables[i+1].base)
		}
		gap := func(to uint64) { // numbers from next to to
			if uint64(next) < to && next <= newest[i] {
				add(segment{begin: next, otherwise: fallback})
			}
			if from := max(uint64(next), uint64(newest[i])+1); from < to {
				add(segment{begin: uint32(from), otherwise: unknown})
			}
		}
		for _, c := range calls {
			if c.begin < t.base || uint64(c.begin) >= end {
				continue
			}
			gap(uint64(c.begin))
			add(c)
			next = c.begin + 1
		}
		gap(end)
	}
	return segs
}

// rulesOf splits the conditions of one entry into alternatives; none means always.
func rulesOf(sc specs.LinuxSyscall, act uint32) ([]rule, error) {
	if len(sc.Args) == 0 {
		return nil, nil
	}
	var seen [6]bool
	repeated := false
	for _, a := range sc.Args {
		if a.Index > 5 {
			return nil, fmt.Errorf("condition on argument %d: %w", a.Index, errdefs.ErrInvalidArgument)
		}
		if !validOperator(a.Op) {
			return nil, fmt.Errorf("operator %q: %w", a.Op, errdefs.ErrInvalidArgument)
		}
		repeated = repeated || seen[a.Index]
		seen[a.Index] = true
	}
	if !repeated {
		return []rule{{sc.Args, act}}, nil
	}
	rules := make([]rule, len(sc.Args))
	for i := range sc.Args {
		rules[i] = rule{sc.Args[i : i+1], act}
	}
	return rules, nil
}
