package keeper

import (
	"context"
	"io"

	"github.com/teu-dev/teu/runner/launch"
)

// Job is a program run in the foreground: a RUN of a build. It leaves no state.
type Job struct {
	Program *launch.Program
	// Stdin is empty if nil. An *os.File is handed to the program itself.
	Stdin io.Reader
	// Stdout and Stderr receive its output through pipes; nil discards it.
	Stdout, Stderr io.Writer
	// UID and GID own the pipes, so that the program may open /dev/stdout again.
	UID, GID int
	// Cgroup lets OOM kills be reported; it may be empty.
	Cgroup Cgroup
}

// Run runs j and returns how it ended. The program's own failure is no error; a step
// that failed before its execve is a [*LaunchError]. When ctx is cancelled, or the
// caller is killed, the program's pid 1 is killed and all of its PID namespace with it,
// and Run returns ctx's error after that.
func Run(ctx context.Context, b *Binary, j Job) (ExitStatus, error) { panic("todo") }
