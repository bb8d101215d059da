package launch

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Assembler collects the operations of a [Program]. Mistakes in its use (an argument too
// many, a Ref of another program) are remembered and returned by [Assembler.Program].
type Assembler struct {
	p    Program
	note uint32
	strs map[string]Arg
	err  error
}

// NewAssembler begins a program.
func NewAssembler(o Options) *Assembler {
	a := &Assembler{strs: map[string]Arg{}}
	a.p.opts = o
	a.p.notes = []string{""}
	return a
}

// Note says what the operations that follow are for. It heads them in the printed plan
// and is what a [StepError] tells the user, so it reads like "mounting proc on /proc".
func (a *Assembler) Note(format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	if len(note) > maxNote {
		note = note[:maxNote]
	}
	a.p.notes = append(a.p.notes, note)
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

// Check fails with errno unless the little-endian number of size bytes (1, 2, 4 or 8) at
// at, masked, is want. It is how a program looks at what a call like fstat has written.
func (a *Assembler) Check(c Cond, at Arg, size int, mask, want uint64, errno unix.Errno) Ref {
	return a.add(opCheck, c, []Arg{at, Int(size), Int(mask), Int(want), Int(uintptr(errno))})
}

// Load returns the number of size bytes (1, 2 or 4) at at, masked; see [Assembler.Check].
func (a *Assembler) Load(c Cond, at Arg, size int, mask uint32) Ref {
	return a.add(opLoad, c, []Arg{at, Int(size), Int(mask & 0x7fffffff)})
}

// Target opens path (O_PATH) inside the tree of root, as RESOLVE_IN_ROOT does, and
// creates what is missing: parents as directories of mode 0755, the last component as a
// directory if mode has S_IFDIR, else as an empty file, with mode's permission bits.
// Links that lead to nothing are followed inside the root and their end is created.
func (a *Assembler) Target(root Arg, path string, mode uint32) Ref {
	return a.TargetIf(Cond{}, root, path, mode)
}

// TargetIf is [Assembler.Target] under a condition.
func (a *Assembler) TargetIf(c Cond, root Arg, path string, mode uint32) Ref {
	return a.add(opTarget, c, []Arg{root, a.Str(path), Int(mode)})
}

// Exec executes the first of paths that can be executed and names its failure "execve".
// The answer of a file that must not be executed counts more than that of a missing one.
func (a *Assembler) Exec(paths, argv, env []string) Ref {
	return a.add(opExec, Cond{}, []Arg{a.Strings(paths), a.Strings(argv), a.Strings(env)})
}

// Differ fails with errno if the size bytes at x and y are the same.
func (a *Assembler) Differ(c Cond, x, y Arg, size int, errno unix.Errno) Ref {
	return a.add(opDiffer, c, []Arg{x, y, Int(size), Int(uintptr(errno))})
}

// Remount changes the mount fd, which has a place, as mount_setattr(2) does on newer
// kernels: its propagation (MS_*) if that is not 0, else its flags (MS_*).
func (a *Assembler) Remount(c Cond, fd Arg, set, clear, propagation uint64) Ref {
	return a.add(opRemount, c, []Arg{fd, Int(set), Int(clear), Int(propagation)})
}

// SendConsole gives the descriptor to the starter, as [Child.Console].
func (a *Assembler) SendConsole(fd Arg) Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgConsole), fd})
}

// SendListener gives the descriptor to the starter, as [Child.Listener].
func (a *Assembler) SendListener(fd Arg) Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgListener), fd})
}

// SendNumber tells who follows the paused program the number of a descriptor it may take
// from the process; see [Follow].
func (a *Assembler) SendNumber(fd Arg) Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgListener), Int(-1), fd})
}

// Ready ends the starter's part before anything is executed: [Start] returns success,
// and later failures are seen only as an exit.
func (a *Assembler) Ready() Ref {
	return a.add(opSend, Cond{}, []Arg{Int(msgReady), Int(-1)})
}

// Pause makes the program wait: [Start] returns success, and the program goes on when
// somebody opens the FIFO for reading. To that reader it tells a later failure; see
// [Follow]. The FIFO is file below dir, a link of procfs if the root is not the host's.
func (a *Assembler) Pause(dir Arg, file string) {
	a.Ready()
	fifo := a.Call(unix.SYS_OPENAT, dir, a.Str(file), Int(unix.O_WRONLY|unix.O_CLOEXEC), Int(0))
	a.Call(unix.SYS_DUP3, Result(fifo), Int(a.Control()), Int(unix.O_CLOEXEC))
	a.Call(unix.SYS_CLOSE, Result(fifo))
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

// DefaultSignals gives every signal its default disposition and unblocks it.
func (a *Assembler) DefaultSignals() Ref { return a.add(opSignals, Cond{}, nil) }

// UserNamespace makes a user namespace that has no process and returns a descriptor of it.
// The maps are in the form of user_namespaces(7). Without privileges each may only name
// one id, the caller's own, and setgroups has to be denied.
func (a *Assembler) UserNamespace(uids, gids string, denySetgroups bool) Ref {
	deny := 0
	if denySetgroups {
		deny = 1
	}
	return a.add(opUserNS, Cond{}, []Arg{a.Str(uids), Int(len(uids)), a.Str(gids), Int(len(gids)), Int(deny)})
}

// Fail ends the program with errno if the condition holds.
func (a *Assembler) Fail(c Cond, errno unix.Errno) Ref {
	return a.add(opFail, c, []Arg{Int(uintptr(errno))})
}

// Control is the descriptor of the control socket. It must stay open until execve and
// closes itself there.
func (a *Assembler) Control() int { return a.p.opts.Slots }

// Str is the address of a NUL-terminated string. Equal strings share their place, so a
// program must not write to it. A string with a NUL inside is an error of the program.
func (a *Assembler) Str(s string) Arg {
	if at, ok := a.strs[s]; ok {
		return at
	}
	if strings.IndexByte(s, 0) >= 0 {
		a.fail(fmt.Errorf("string %q has a NUL", s))
	}
	at := a.data(append([]byte(s), 0), 1)
	a.strs[s] = at
	return at
}

// Bytes is the address of a copy of b, aligned to 8.
func (a *Assembler) Bytes(b []byte) Arg { return a.data(b, 8) }

// Buffer is the address of n zero bytes, aligned to 8.
func (a *Assembler) Buffer(n int) Arg { return a.data(make([]byte, n), 8) }

// Strings is the address of a NULL-terminated array of strings, as execve wants it.
func (a *Assembler) Strings(list []string) Arg {
	at := a.Buffer(8 * (len(list) + 1))
	for i, s := range list {
		a.SetPointer(Offset(at, 8*i), a.Str(s))
	}
	return at
}

// SetPointer makes the 8 bytes at at the address of to. Both are data.
func (a *Assembler) SetPointer(at, to Arg) {
	if at.kind != argData || to.kind != argData {
		a.fail(fmt.Errorf("pointer between things that are not data"))
		return
	}
	a.p.relocs = append(a.p.relocs, reloc{uint32(at.val), uint32(to.val)})
}

// Offset is the address n bytes behind a piece of data.
func Offset(at Arg, n int) Arg { return Arg{at.kind, at.val + uint64(n)} }

// Program returns what was assembled.
func (a *Assembler) Program() (*Program, error) {
	if a.err != nil {
		return nil, fmt.Errorf("assembling a launch program: %w", a.err)
	}
	p := a.p
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("assembling a launch program: %w", err)
	}
	return &p, nil
}

func (a *Assembler) add(nr uint32, c Cond, args []Arg) Ref {
	o := op{nr: nr, note: a.note, when: int32(c.When), unless: int32(c.Unless)}
	if len(args) > len(o.args) || len(c.Ignore) > len(o.ignore) {
		a.fail(fmt.Errorf("%s: too many arguments", opName(nr)))
		return Ref(len(a.p.ops))
	}
	for i, arg := range args {
		o.kinds[i], o.args[i] = arg.kind, arg.val
	}
	for i, e := range c.Ignore {
		o.ignore[i] = uint16(e)
	}
	a.p.ops = append(a.p.ops, o)
	return Ref(len(a.p.ops))
}

func (a *Assembler) data(b []byte, align int) Arg {
	for len(a.p.data)%align != 0 {
		a.p.data = append(a.p.data, 0)
	}
	at := Arg{argData, uint64(len(a.p.data))}
	a.p.data = append(a.p.data, b...)
	if len(b) == 0 {
		a.p.data = append(a.p.data, 0) // an address of its own, inside the data
	}
	return at
}

func (a *Assembler) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// Uint32 is the bytes of a number as the kernel reads it, to build structures.
func Uint32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// Uint64 is [Uint32] for 8 bytes.
func Uint64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }
