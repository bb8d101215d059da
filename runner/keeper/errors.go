package keeper

import (
	"errors"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// LaunchError is a program that did not come to its execve.
type LaunchError struct {
	Text  string
	Errno unix.Errno
	Code  int // docker's exit code: 125, 126 or 127
}

func (e *LaunchError) Error() string { return e.Text }

// Unwrap gives the errno, or nil.
func (e *LaunchError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// classed is an error that came over the socket.
type classed struct {
	text  string
	class error
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

// errorClass returns the name under which the class of err travels.
func errorClass(err error) string {
	switch {
	case errors.Is(err, errdefs.ErrConflict):
		return "conflict"
	case errors.Is(err, errdefs.ErrInvalidArgument):
		return "invalid"
	case errors.Is(err, errdefs.ErrNotFound):
		return "not found"
	case errors.Is(err, errdefs.ErrNotImplemented):
		return "not implemented"
	}
	return ""
}

func classNamed(name string) error {
	switch name {
	case "conflict":
		return errdefs.ErrConflict
	case "invalid":
		return errdefs.ErrInvalidArgument
	case "not found":
		return errdefs.ErrNotFound
	case "not implemented":
		return errdefs.ErrNotImplemented
	}
	return nil
}

// failure makes the reply that tells a client of err.
func failure(err error) reply {
	r := reply{Error: err.Error(), Class: errorClass(err)}
	var errno unix.Errno
	if errors.As(err, &errno) {
		r.Errno = int(errno)
	}
	var step *launch.StepError
	var failed *LaunchError
	switch {
	case errors.As(err, &step):
		r.Code = step.ExitCode()
	case errors.As(err, &failed):
		r.Code = failed.Code
	}
	return r
}

func (r reply) err() error {
	switch {
	case r.Code != 0:
		return &LaunchError{Text: r.Error, Errno: unix.Errno(r.Errno), Code: r.Code}
	case r.Error != "" && r.Class == "" && r.Errno != 0:
		return &classed{r.Error, unix.Errno(r.Errno)}
	case r.Error != "":
		return &classed{r.Error, classNamed(r.Class)}
	}
	return nil
}
