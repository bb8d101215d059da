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
	words  uint8 // see words
}

func compile(s *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	flags, err := loadFlags(s.Flags)
	if err != nil {
		return nil, err
	}
	archs, err := archsOf(s.Architectures, goarch)
	if err != nil {
		return nil, err
	}
	p, err := newProfile(s)
	if err != nil {
		return nil, err
	}
	notify := p.fallback == unix.SECCOMP_RET_USER_NOTIF
	prog := backwards{make([]unix.SockFilter, 0, 2048)}
	prog.push(ret(unix.SECCOMP_RET_KILL_PROCESS))
	for _, a := range slices.Backward(archs) {
		segs, n := p.segments(a)
		notify = notify || n
		behind := len(prog.insns)
		prog.search(segs)
		prog.push(load(offsetNR))
		prog.pushJumpUnlessEqual(a.audit, len(prog.insns)-behind)
	}
	prog.push(load(offsetArch))
	if len(prog.insns) > maxInstructions {
		return nil, fmt.Errorf("filter of %d instructions: %w", len(prog.insns), errdefs.ErrInvalidArgument)
	}
	slices.Reverse(prog.insns)
	return &Filter{Program: prog.insns, Flags: flags, Notify: notify}, nil
}

// profile is the section of the spec with its entries found by name.
type profile struct {
	fallback, unknown uint32 // of calls it does not name, and of those newer than it
	entries           []entry
	mentions          []mention
	first             map[string]int32 // by name of a call: index in mentions
	room              []segment        // for segments, once for all architectures
}

// entry is one item of the section's syscalls.
type entry struct {
	action uint32
	rules  []rule // none: always
}

// mention is the name of a call in an entry.
type mention struct {
	entry *entry
	next  int32 // index of the next mention of the name; -1: none
}

func newProfile(s *specs.LinuxSeccomp) (*profile, error) {
	fallback, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	p := &profile{fallback: fallback, unknown: fallback, entries: make([]entry, len(s.Syscalls)), first: make(map[string]int32, 512)}
	if !permissive(s.DefaultAction) {
		p.unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	p.mentions = make([]mention, 0, 512)
	p.room = make([]segment, 0, 1024)
	for i, sc := range slices.Backward(s.Syscalls) { // so that the chains are in order
		e := &p.entries[i]
		if e.action, err = action(sc.Action, sc.ErrnoRet); err != nil {
			return nil, err
		}
		if e.rules, err = rulesOf(sc, e.action); err != nil {
			return nil, err
		}
		for _, name := range sc.Names {
			next, ok := p.first[name]
			if !ok {
				next = -1
			}
			p.first[name] = int32(len(p.mentions))
			p.mentions = append(p.mentions, mention{e, next})
		}
	}
	return p, nil
}

// segments is what the profile says about one architecture, by call number, as the tables are.
func (p *profile) segments(a arch) (segs []segment, notify bool) {
	calls := p.room[:0]
	newest := make([]uint32, len(a.tables))
	for i, t := range a.tables {
		for name, nr := range t.calls() {
			at, ok := p.first[name]
			if !ok {
				continue
			}
			if nr < t.private {
				newest[i] = max(newest[i], nr)
			}
			call, said := segment{begin: nr, otherwise: p.fallback}, false
			for ; at >= 0; at = p.mentions[at].next {
				e := p.mentions[at].entry
				if e.action == p.fallback {
					continue
				}
				said = true
				notify = notify || e.action == unix.SECCOMP_RET_USER_NOTIF
				if len(e.rules) > 0 {
					for _, r := range e.rules {
						r.words = words(name)
						call.rules = append(call.rules, r)
					}
				} else {
					call.otherwise = e.action
				}
			}
			if said {
				calls = append(calls, call)
			}
		}
	}
	p.room = calls
	return p.fill(calls, a, newest), notify
}

// fill adds the ranges between the calls, each with the fallback up to the newest call of
// its table and unknown above, and merges neighbours that are alike.
func (p *profile) fill(calls []segment, a arch, newest []uint32) []segment {
	segs := make([]segment, 0, 128)
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
				add(segment{begin: next, otherwise: p.fallback})
			}
			if from := max(uint64(next), uint64(newest[i])+1); from < to {
				add(segment{begin: uint32(from), otherwise: p.unknown})
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
		return []rule{{args: sc.Args, action: act}}, nil
	}
	rules := make([]rule, len(sc.Args))
	for i := range sc.Args {
		rules[i] = rule{args: sc.Args[i : i+1], action: act}
	}
	return rules, nil
}
