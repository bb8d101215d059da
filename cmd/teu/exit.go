package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner/userns"
)

// Exit codes, docker's. A flag that is not there gives 125, other wrong command lines 1.
// run and exec: 125 when teu itself failed, 126 when the command cannot be executed, 127
// when it was not found, else the container's own.
const (
	exitFailure       = 1
	exitTemplate      = 64 // of inspect, info, version and events
	exitEngine        = 125
	exitNotExecutable = 126
	exitNotFound      = 127
	exitInterrupted   = 130
	exitTerminated    = 143
)

// engineError is an error of a command line that docker's engine finds, not its command: create ends
// with 1 and not with 125.
type engineError struct{ error }

func (engineError) Unwrap() error { return errdefs.ErrInvalidArgument }

// clientError is the other way round: the engine's words without its class. A nil err stays nil.
func clientError(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// exitError makes the process end with code. A nil err prints nothing: the
// container's own output has said what there is to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// confinedError is an error of a process that may do less than others of its user.
type confinedError struct {
	err error
	how string
}

func (e *confinedError) Error() string { return e.err.Error() }
func (e *confinedError) Unwrap() error { return e.err }
func (e *confinedError) Hint() string  { return e.how }

// explain says of an error whether it comes from where this process is.
func (a *app) explain(err error) error {
	var fs unix.Statfs_t
	switch {
	case errors.Is(err, unix.EINVAL) && !a.bundles() && unix.Statfs(a.root, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC:
		return &confinedError{err, "the store " + a.root + " is on an overlay, as all is in a container, and no container can be on top of one: " +
			"put a volume or a tmpfs there, or choose another directory with --root"}
	case !errors.Is(err, unix.EPERM):
		return err
	case a.confined != nil:
		return &confinedError{err, "this root has no CAP_SYS_ADMIN: " + a.confined.Error()}
	case userns.Filtered():
		return &confinedError{err, "a seccomp filter is in force: if this is in a container, start that with --security-opt seccomp=unconfined"}
	}
	return err
}

// bundles says whether the command works on bundles, whose roots are not in the store.
func (a *app) bundles() bool { return len(a.words) > 0 && a.words[0] == "oci" }

// withExitCode returns err carrying code, or nil for a nil err.
func withExitCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: code, err: err}
}

// usageError is a wrong command line; its hint points to the help.
type usageError struct {
	command string // "teu run"
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return "see `" + e.command + " --help`" }

// fullError is an error that comes from a disk without room.
type fullError struct{ err error }

func (e *fullError) Error() string { return e.err.Error() }
func (e *fullError) Unwrap() error { return e.err }
func (e *fullError) Hint() string  { return "the disk is full; `teu system prune` makes room" }

// isOutput says whether err is of writing to who started the command.
func isOutput(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && (path.Path == os.Stdout.Name() || path.Path == os.Stderr.Name())
}

// exitCode maps the error of a command to the exit code of the process.
func exitCode(err error) int {
	var exit *exitError
	var template *ui.TemplateError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &template):
		return exitTemplate
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailure
}

// report prints err with its hint, and returns the exit code.
func report(u *ui.UI, err error) int {
	code := exitCode(err)
	var exit *exitError
	if err == nil || (errors.As(err, &exit) && exit.err == nil) || err == context.Canceled { // who interrupts knows it
		return code
	}
	if errors.Is(err, unix.ENOSPC) && !isOutput(err) {
		err = &fullError{err}
	}
	u.Error(err)
	return code
}

// interrupted is the error of a command that a signal has ended: who sent that knows it.
func interrupted(ctx context.Context) error {
	code := exitInterrupted
	if context.Cause(ctx) == errTerminated {
		code = exitTerminated
	}
	return &exitError{code: code}
}

func isNotFound(err error) bool { return errors.Is(err, errdefs.ErrNotFound) }
