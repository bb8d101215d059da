package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// WriteTo copies the keeper's executable, which is also the init of containers that want
// one; see initMain.
func (b *Binary) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(b.f, 0, 1<<30))
}

// initMain executes the command of a container with --init, "/sbin/docker-init -- COMMAND
// ARG...". It is the child of the container's first process, which is the same file and was
// never a Go program (cmd/teu-keeper/start_amd64.s): that one passes signals on, reaps what
// others leave behind and ends as the command does. All signals are blocked when we begin.
func initMain(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no command")
		return 125
	}
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return initFailure(args[0], err)
	}
	unix.Setpgid(0, 0) // we are no leader of a session
	if onTerminal() {
		// The terminal's foreground group is to be the command's. Asking for it from the
		// background would stop us, were SIGTTOU not blocked.
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, os.Getpid())
	}
	runtime.LockOSThread() // whose mask the command gets
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return initFailure(args[0], err)
	}
	return initFailure(args[0], unix.Exec(path, args, os.Environ()))
}

func onTerminal() bool {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	return err == nil
}

// initFailure tells why there is no command, and ends as a shell would.
func initFailure(command string, err error) int {
	fmt.Fprintf(os.Stderr, "init: executing %s: %v\n", command, err)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return 127
	}
	return 126
}
