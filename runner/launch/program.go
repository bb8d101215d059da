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
	"golang.org/x/sys/unix"
)

// Program is a list of operations, the data they point to and the number of file
// descriptors they expect. It is made by an [Assembler] or by [Program.UnmarshalBinary]
// and never changes afterwards; it may be started any number of times, also concurrently.
type Program struct {
	ops    []op
	data   []byte
	relocs []reloc
	notes  []string
	slots  int
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
func (p *Program) Slots() int { return p.slots }

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
	when   int32  // k+1: only if ops[k] succeeded; -(k+1): only if it failed
	unless int32  // k+1: only if ops[k] failed; kept apart because both may be given
	ignore [4]uint16
	kinds  [6]argKind
	args   [6]uint64
}

// reloc asks for the address of data[to] to be stored in the 8 bytes at data[at].
type reloc struct{ at, to uint32 }

// Numbers of operations that are no system call.
const (
	opStore   = 1<<31 + iota // data address, value, size: stores a value of 4 or 8 bytes
	opCheck                  // data address, size, mask, want, errno: compares what a call wrote
	opTarget                 // root fd, path, mode, scratch: opens or creates a path inside a root
	opSend                   // message kind, fd or -1: tells the starter
	opAwait                  // waits until the starter has answered
	opFork                   // clone flags: continues in a child that is the starter's own
	opBorn                   // fails unless the process was born in Options.CgroupDir
	opSignals                // default disposition for all signals
	opFail                   // errno: fails
	opEnd
)

const opFirst = opStore
