package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteTo copies the keeper's executable, which is also the init of containers that want
// one; see initMain.
func (b *Binary) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(b.f, 0, 1<<30))
}

// initMain is the first process of a container with --init: it executes a command, passes
// signals on to it, reaps what others leave behind and ends as the command does. It is
// started as "/sbin/docker-init -- COMMAND ARG...", and has no connection to anybody.
func initMain(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no command")
		return 125
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	// A terminal's foreground group is to be the command's; asking for it from the
	// background must not stop us.
	signal.Ignore(unix.SIGTTIN, unix.SIGTTOU)
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return initFailure(args[0], err)
	}
	p, err := os.StartProcess(path, args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: onTerminal(), Ctty: 0}})
	if err != nil {
		return initFailure(args[0], err)
	}
	for s := range signals {
		switch s {
		case unix.SIGCHLD:
			if status, done := reap(p.Pid); done {
				return status
			}
		case unix.SIGURG, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU: // our own
		default:
			unix.Kill(p.Pid, s.(syscall.Signal)) // it may have ended
		}
	}
	return 0 // not reached
}

func onTerminal() bool {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	return err == nil
}

// reap takes all that have ended and reports the status of the command, if it is among them.
func reap(command int) (status int, done bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid <= 0:
			return status, done
		case pid == command && ws.Signaled():
			status, done = 128+int(ws.Signal()), true
		case pid == command && ws.Exited():
			status, done = ws.ExitStatus(), true
		}
	}
}

// initFailure tells why there is no command, and ends as a shell would.
func initFailure(command string, err error) int {
	fmt.Fprintf(os.Stderr, "init: executing %s: %v\n", command, err)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return 127
	}
	return 126
}
