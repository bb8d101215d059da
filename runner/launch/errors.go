package launch

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// StepError is the operation that ended a program.
type StepError struct {
	Step  int    // its number in the printed plan
	Name  string // system call or pseudo operation: "execve", "move_mount", "target"
	Note  string // what it was for
	Errno unix.Errno
}

// Error has runc's words for a command that cannot be executed, by which clients tell it
// from other failures.
func (e *StepError) Error() string {
	switch executing := strings.HasPrefix(e.Note, execNote); {
	case e.Note == "":
		return fmt.Sprintf("step %d: %s: %v", e.Step, e.Name, e.Errno)
	case executing && e.Errno == unix.ENOENT && !strings.Contains(e.Note, "/"):
		return e.Note + ": executable file not found in $PATH"
	case executing && (e.Name == "execve" || e.Name == "check"):
		return fmt.Sprintf("%s: %v", e.Note, e.Errno)
	case e.Name == "move_mount" && (e.Errno == unix.EINVAL || e.Errno == unix.ENOTDIR):
		return fmt.Sprintf("%s: %s: %v (a directory on a file, or a file on a directory?)", e.Note, e.Name, e.Errno)
	}
	return fmt.Sprintf("%s: %s: %v", e.Note, e.Name, e.Errno)
}

const execNote = "exec: "

// NoteExec is [Assembler.Note] for what executes a command.
func (a *Assembler) NoteExec(command string) { a.Note(execNote+"%q", command) }

// Unwrap gives the errno, so errors.Is(err, unix.ENOENT) works.
func (e *StepError) Unwrap() error { return e.Errno }

// ExitCode is docker's exit code for the failure: 127 for a command that does not exist,
// 126 for one that cannot be executed, 125 for everything before.
func (e *StepError) ExitCode() int {
	looked := e.Name == "check" && strings.HasPrefix(e.Note, execNote) // for the command, before it is due
	if e.Name != "execve" && !looked {
		return 125
	}
	switch e.Errno {
	case unix.ENOENT, unix.ENOTDIR:
		return 127
	}
	return 126
}

func (p *Program) stepError(m message) error {
	e := &StepError{Step: int(m.step), Errno: unix.Errno(m.value)}
	if e.Step < len(p.ops) {
		o := &p.ops[e.Step]
		e.Name, e.Note = opName(o.nr), p.notes[o.note]
		if key, ok := p.option(o); ok {
			e.Note += ": the option " + key
		}
	}
	return e
}

// option is what an operation sets of a filesystem, if it does.
func (p *Program) option(o *op) (key string, ok bool) {
	if o.nr != unix.SYS_FSCONFIG || o.kinds[2] != argData || max(o.args[2], o.args[3]) > uint64(len(p.data)) {
		return "", false
	}
	key = p.str(o.args[2])
	if o.kinds[3] == argData {
		key += "=" + p.str(o.args[3])
	}
	return quote(key), true
}
