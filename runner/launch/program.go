// Package launch starts a process from a program: a flat list of raw system calls.
//
// A container's start is planned by somebody with all the time and memory of a Go
// program (runner/oci) and performed by a child that may use neither: between fork and
// exec it runs one loop over memory prepared before. The plan is a [Program]. It can be
// printed ([Program.String]), kept on disk ([Program.MarshalBinary]) and run again, so
// whoever restarts a container needs nothing but the program and its open files.
//
//	starter                                child
//	  Start: copy, relocate, fork  ------>   fds 0..n-1 = the program's slots, n = control
//	  read control socket  <--- message ---  op 0, op 1, ... each result kept for later ops
//	    console, pid of a second child       on failure: {step, errno}, exit
//	  end of file: it has been executed <--  execve (the control socket is close-on-exec)
//
// The package knows nothing of containers: which calls make one is runner/oci's business.
package launch

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Program is a list of operations, the data they point to and the number of file
// descriptors they expect. It is made by an [Assembler] or by [Program.UnmarshalBinary]
// and never changes afterwards; it may be started any number of times, also concurrently.
type Program struct {
	ops    []op
	data   []byte
	relocs []reloc
	notes  []string // what operations are for; the first is empty
	opts   Options
}

// Options say how the first process of a program is made.
type Options struct {
	// Slots is the number of files Start is given. They are descriptors 0 to Slots-1 of
	// the child; those above 2 are closed by execve unless an operation changes that.
	Slots int
	// CloneFlags are the CLONE_NEW* flags of the fork.
	CloneFlags uint64
	// CgroupDir is a cgroup2 directory the process is born in (CLONE_INTO_CGROUP), or "".
	// Where the kernel refuses, [Assembler.Born] fails and the program must join itself.
	CgroupDir string
}

// Slots returns the number of files [Start] needs.
func (p *Program) Slots() int { return p.opts.Slots }

// Ref names an operation of a program, so that later ones can use its result. The zero
// Ref names none.
type Ref int32

// Arg is one argument of an operation.
type Arg struct {
	kind argKind
	val  uint64
}

type argKind uint8

const (
	argInt    argKind = iota // val itself
	argData                  // address of data[val]
	argResult                // result of ops[val]
)

// Int is a number: flags, sizes, fixed descriptors such as unix.AT_FDCWD.
func Int[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{argInt, uint64(int64(v))}
}

// Result is what an earlier operation returned. An operation with an argument whose
// operation failed or was skipped is skipped itself.
func Result(r Ref) Arg { return Arg{argResult, uint64(r - 1)} }

// AnyError in a [Cond] tolerates every error.
const AnyError = unix.Errno(0xffff)

// Cond says when an operation runs and which failures do not end the program.
type Cond struct {
	When   Ref          // only if this operation succeeded
	Unless Ref          // only if this operation failed or was skipped
	Ignore []unix.Errno // at most four; failures that leave a negative result and go on
}

// op is one operation as it is kept and interpreted.
type op struct {
	nr     uint32 // system call number, or one of the pseudo numbers
	note   uint32 // index in notes
	when   int32  // k+1: only if ops[k] succeeded
	unless int32  // k+1: only if ops[k] failed
	ignore [4]uint16
	kinds  [6]argKind
	args   [6]uint64
}

// reloc asks for the address of data[to] to be stored in the 8 bytes at data[at].
type reloc struct{ at, to uint32 }

// Numbers of operations that are no system call.
const (
	opStore   = 1<<31 + iota // data address, value, size: stores a value of 4 or 8 bytes
	opCheck                  // data address, size, mask, want, errno: looks at what a call wrote
	opTarget                 // root fd, path, mode: opens or creates a path inside a root
	opSend                   // message kind, fd or -1, value: tells the starter
	opFork                   // clone flags: goes on in a child that is the starter's own
	opBorn                   // fails unless the process was born in Options.CgroupDir
	opSignals                // default disposition for all signals
	opExec                   // paths, argv, envp: execve of the first path that can be executed
	opDiffer                 // data address, data address, size, errno: fails if both are equal
	opFail                   // errno: fails
	opUserNS                 // uid map, size, gid map, size, deny setgroups: makes a user namespace
	opLoad                   // data address, size, mask: the result is what is there
	opRemount                // fd, flags to set, to clear, propagation: changes a mount that has a place
	opEnd
)

// Kinds of the messages from child to starter: {kind, step, value} in 4, 4 and 8 bytes.
const (
	msgFailed  = iota + 1 // value is the errno
	msgConsole            // with a descriptor
	msgReady
	msgPID      // value is the pid of the child Fork made, in the starter's PID namespace
	msgListener // with a descriptor, or value is the number it has in the child
)

const msgSize = 16

// Limits of a program. They are far above what a spec of 8 MiB can need.
const (
	maxOps    = 16384
	maxData   = 16 << 20
	maxRelocs = 1 << 18
	maxNote   = 4096
	maxSlots  = 64
	maxPath   = 4096
)

// validate checks everything the child relies on: it has no way to notice a bad program.
// It does not judge what the system calls do; a program is as trusted as its author.
func (p *Program) validate() error {
	switch {
	case p.opts.Slots < 3 || p.opts.Slots > maxSlots:
		return fmt.Errorf("%d slots", p.opts.Slots)
	case len(p.ops) == 0 || len(p.ops) > maxOps || len(p.data) > maxData || len(p.relocs) > maxRelocs:
		return fmt.Errorf("size out of range: %d operations, %d bytes, %d pointers", len(p.ops), len(p.data), len(p.relocs))
	case len(p.opts.CgroupDir) >= maxPath || strings.IndexByte(p.opts.CgroupDir, 0) >= 0:
		return fmt.Errorf("impossible cgroup directory")
	case len(p.notes) == 0 || len(p.notes) > maxOps+1:
		return fmt.Errorf("%d notes", len(p.notes))
	}
	for _, r := range p.relocs {
		if uint64(r.at)+8 > uint64(len(p.data)) || uint64(r.to) >= uint64(len(p.data)) {
			return fmt.Errorf("pointer at %d to %d outside the data", r.at, r.to)
		}
	}
	for i := range p.ops {
		if err := p.validateOp(i); err != nil {
			return fmt.Errorf("operation %d (%s): %w", i, opName(p.ops[i].nr), err)
		}
	}
	return nil
}

func (p *Program) validateOp(i int) error {
	o := &p.ops[i]
	if o.nr >= opEnd || (o.nr >= maxSyscall && o.nr < opStore) || uint64(o.note) >= uint64(len(p.notes)) {
		return errors.New("no such operation")
	}
	if o.when < 0 || o.when > int32(i) || o.unless < 0 || o.unless > int32(i) {
		return errors.New("condition on an operation that is not before")
	}
	for k := range o.args {
		switch o.kinds[k] {
		case argInt:
		case argData:
			if o.args[k] >= uint64(len(p.data)) {
				return fmt.Errorf("argument %d outside the data", k)
			}
		case argResult:
			if o.args[k] >= uint64(i) {
				return fmt.Errorf("argument %d is no earlier result", k)
			}
		default:
			return fmt.Errorf("argument %d of unknown kind", k)
		}
	}
	return p.validatePseudo(o)
}

// validatePseudo checks the arguments of operations that touch memory by themselves.
func (p *Program) validatePseudo(o *op) error {
	inData := func(size uint64) bool {
		return o.kinds[0] == argData && (size == 1 || size == 2 || size == 4 || size == 8) &&
			o.args[0]+size <= uint64(len(p.data))
	}
	switch o.nr {
	case opStore:
		if o.kinds[2] != argInt || o.args[2] < 4 || !inData(o.args[2]) {
			return errors.New("stores outside the data")
		}
	case opCheck, opLoad:
		if o.kinds[1] != argInt || !inData(o.args[1]) {
			return errors.New("checks outside the data")
		}
	case opUserNS:
		for _, k := range []int{0, 2} {
			if o.kinds[k] != argData || o.kinds[k+1] != argInt || o.args[k+1] > maxPath || o.args[k]+o.args[k+1] > uint64(len(p.data)) {
				return errors.New("map is outside the data")
			}
		}
	case opExec:
		if o.kinds[0] != argData {
			return errors.New("paths are not data")
		}
	case opDiffer:
		a, b, n := o.args[0], o.args[1], o.args[2]
		if o.kinds[0] != argData || o.kinds[1] != argData || o.kinds[2] != argInt || n > 4096 ||
			a+n > uint64(len(p.data)) || b+n > uint64(len(p.data)) {
			return errors.New("compares outside the data")
		}
	case opTarget:
		if o.kinds[1] != argData || o.kinds[2] != argInt {
			return errors.New("path is not data")
		}
		if n := bytes.IndexByte(p.data[o.args[1]:], 0); n < 0 || n >= maxPath {
			return errors.New("path is too long")
		}
	case opSend:
		if o.kinds[0] != argInt || (o.args[0] != msgConsole && o.args[0] != msgReady && o.args[0] != msgListener) {
			return errors.New("unknown message")
		}
	}
	return nil
}

// maxSyscall is above every system call number of the 64-bit tables.
const maxSyscall = 1024
