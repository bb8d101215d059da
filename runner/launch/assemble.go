package launch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Assembler collects the operations of a [Program]. Mistakes in its use (an argument too
// many, an unknown Ref) are remembered and returned by Program.
type Assembler struct {
	p    Program
	note uint32
	strs map[string]Arg
	err  error
}

// NewAssembler begins a program.
func NewAssembler(o Options) *Assembler {
	a := &Assembler{strs: map[string]Arg{}}
	a.p.opts, a.p.slots = o, o.Slots
	a.p.notes = []string{""}
	return a
}

// Note says what the operations that follow are for. It heads them in the printed plan
// and is what a [StepError] tells the user, so it reads like "mounting proc on /proc".
func (a *Assembler) Note(format string, args ...any) {
	a.p.notes = append(a.p.notes, fmt.Sprintf(format, args...))
	a.note = uint32(len(a.p.notes) - 1)
}

// Call appends a system call. Its failure ends the program.
func (a *Assembler) Call(nr uintptr, args ...Arg) Ref {
	return a.add(uint32(nr), Cond{}, args)
}

// CallIf appends a system call under a condition.
func (a *Assembler) CallIf(c Cond, nr uintptr, args ...Arg) Ref {
	return a.add(uint32(nr), c, args)
}

// Store writes a value into data at execution time, in 4 or 8 bytes.
func (a *Assembler) Store(at Arg, value Arg, size int) Ref {
	return a.add(opStore, Cond{}, []Arg{at, value, Int(size)})
}

// Check fails with errno unless (data[at:at+size] & mask) == want, for sizes 1, 2, 4, 8.
func (a *Assembler) Check(c Cond, at Arg, size int, mask, want uint64, errno unix.Errno) Ref {
	return a.add(opCheck, c, []Arg{at, Int(size), Int(mask), Int(want), Int(uintptr(errno))})
}

// Target opens path (O_PATH) inside the tree of root, as RESOLVE_IN_ROOT does, and
// creates what is missing: parents as directories of mode 0755, the last component as a
// directory if mode has S_IFDIR, else as an empty file, with mode's permission bits.
func (a *Assembler) Target(root Arg, path string, mode uint32) Ref {
	return a.add(opTarget, Cond{}, []Arg{root, a.Str(path), Int(mode), a.Buffer(targetScratch)})
}

// SendConsole gives the descriptor to the starter, as [Child.Console].
func (a *Assembler) SendConsole(fd Arg) Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgConsole), fd})
}

// Ready ends the starter's part before anything is executed: [Start] returns success,
// and later failures are seen only as an exit.
func (a *Assembler) Ready() Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgReady), Int(-1)})
}

// Fork goes on in a new child which is a child of the starter, not of the present
// process (CLONE_PARENT), and ends the present one. flags are clone flags to add.
func (a *Assembler) Fork(flags uint64) Ref {
	return a.add(opFork, Cond{}, []Arg{Int(flags)})
}

// Born succeeds if the process was born in [Options.CgroupDir]; its failure is tolerated.
func (a *Assembler) Born() Ref {
	return a.add(opBorn, Cond{Ignore: []unix.Errno{AnyError}}, nil)
}

// DefaultSignals gives every signal its default disposition.
func (a *Assembler) DefaultSignals() Ref { return a.add(opSignals, Cond{}, nil) }

// Fail ends the program with errno if the condition holds.
func (a *Assembler) Fail(c Cond, errno unix.Errno) Ref {
	return a.add(opFail, c, []Arg{Int(uintptr(errno))})
}

// Control is the descriptor of the control socket, which must stay open until execve.
func (a *Assembler) Control() int { return a.p.slots }

// Program returns what was assembled.
func (a *Assembler) Program() (*Program, error) {
	if a.err != nil {
		return nil, a.err
	}
	p := a.p
	if err := p.validate(); err != nil {
		return nil, err
	}
	return &p, nil
}
