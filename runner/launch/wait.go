package launch

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Code   int  // as a shell reports it: 128+n for signal n
	Signal int  // 0 if it exited by itself
	Core   bool // a core was dumped
}

// Wait waits until the child has ended, reaps it and closes PIDFD. It blocks a thread.
func (c *Child) Wait() (Exit, error) {
	exit, err := waitPIDFD(int(c.PIDFD.Fd()))
	if err != nil {
		return Exit{}, fmt.Errorf("waiting for process %d: %w", c.PID, err)
	}
	return exit, c.PIDFD.Close()
}

// Signal sends a signal to the child. A child that has ended is unix.ESRCH, one that Wait has
// reaped another error. It may be called beside Wait.
func (c *Child) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w", sig, unix.EINVAL)
	}
	if err := SignalPIDFD(c.PIDFD, s); err != nil {
		return fmt.Errorf("sending %v to process %d: %w", s, c.PID, err)
	}
	return nil
}

// SignalPIDFD sends a signal to the process of a pidfd. It may be called beside what closes the
// descriptor, whose number another process's could get: pidfd is held meanwhile.
func SignalPIDFD(pidfd *os.File, s syscall.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return err
	}
	return sent
}

// destroy ends and reaps a child whose start has failed.
func (c *Child) destroy() error {
	if c == nil {
		return nil
	}
	if err := unix.PidfdSendSignal(int(c.PIDFD.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("ending process %d: %w", c.PID, err)
	}
	_, err := c.Wait()
	return err
}

// siginfo is siginfo_t as waitid fills it on 64-bit machines; waitid(2).
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// Values of si_code of SIGCHLD; sigaction(2).
const (
	cldExited = 1
	cldDumped = 3
)

func waitPIDFD(fd int) (Exit, error) {
	var info siginfo
	for {
		err := unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Exit{}, err
		}
	}
	if info.code == cldExited {
		return Exit{Code: int(info.status)}, nil
	}
	sig := int(info.status)
	return Exit{Code: 128 + sig, Signal: sig, Core: info.code == cldDumped}, nil
}

// The two have one size, or this does not compile.
var _ [unsafe.Sizeof(unix.Siginfo{})]byte = [unsafe.Sizeof(siginfo{})]byte{}
