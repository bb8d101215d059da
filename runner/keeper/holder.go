package keeper

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/tinyelf"
)

// holder is a sleeping process that shares descriptors with the keeper, so that their
// files outlive it:
//
//   - a pidfd of the container, through which the kernel tells its exit status for as
//     long as it is open;
//   - our ends of the FIFOs, which would be emptied if nobody had them open;
//   - the master of the terminal, whose loss would hang up the container.
//
// The next keeper takes them from there. The program is a few instructions long, as
// there is one holder for every container.
type holder struct {
	id  statefile.Process
	own bool // our child
}

// The descriptors of a holder. Only one of heldInput and heldConsole is there.
const (
	heldPidfd = 3 + iota
	heldInput
	heldConsole
	heldOutput // and one more
)

// startHolder starts the holder of a run.
func startHolder(pidfd *os.File, s *stdio) (*holder, error) {
	exe, err := tinyelf.Memfd("teu-holder", tinyelf.Sleep())
	if err != nil {
		return nil, err
	}
	defer unix.Close(exe)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	files := []uintptr{}
	for range heldPidfd {
		files = append(files, uintptr(null))
	}
	input := s.in
	if s.console != nil {
		input = nil
	}
	for _, f := range []*os.File{pidfd, input, s.console, s.out[0], s.out[1]} {
		fd := null
		if f != nil {
			fd = descriptor(f)
		}
		files = append(files, uintptr(fd))
	}
	// Not os.StartProcess: it would take the files away from the poller.
	pid, err := syscall.ForkExec(executable(uintptr(exe)), []string{"teu-keeper", "hold"},
		&syscall.ProcAttr{Dir: "/", Files: files})
	runtime.KeepAlive(s)
	runtime.KeepAlive(pidfd)
	if err != nil {
		return nil, fmt.Errorf("starting a holder: %w", err)
	}
	h := &holder{own: true}
	if h.id, err = identifyChild(pid); err != nil {
		h.id.PID = pid
		h.end()
		return nil, err
	}
	return h, nil
}

// take returns a descriptor of a holder that an earlier keeper started.
func (h *holder) take(which int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(h.id.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", h.id.PID, err)
	}
	defer unix.Close(pidfd)
	if !h.id.Alive() {
		return nil, fmt.Errorf("holder %d: %w", h.id.PID, unix.ESRCH)
	}
	fd, err := unix.PidfdGetfd(pidfd, which, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd of %d: %w", h.id.PID, err)
	}
	return os.NewFile(uintptr(fd), "held"), nil
}

// wait returns when the holder has ended. It costs no thread.
func (h *holder) wait() error {
	fd, err := unix.PidfdOpen(h.id.PID, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", h.id.PID, err)
	}
	f := os.NewFile(uintptr(fd), "holder")
	defer f.Close()
	if !h.id.Alive() {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// end ends the holder. It may be nil.
func (h *holder) end() {
	switch {
	case h == nil:
	case h.own:
		unix.Kill(h.id.PID, unix.SIGKILL)
		unix.Wait4(h.id.PID, nil, 0, nil)
	case h.id.Alive():
		unix.Kill(h.id.PID, unix.SIGKILL)
	}
}

// EndHolder ends the holder of a run whose end is in s, should its keeper not have lived to do that.
func EndHolder(s State) { (&holder{id: s.Holder}).end() }

// identifyChild is statefile.Identify for a child that has not been waited for; it may
// have ended.
func identifyChild(pid int) (statefile.Process, error) {
	id, err := statefile.Identify(pid)
	if err == nil {
		return id, nil
	}
	boot, err := statefile.BootID()
	return statefile.Process{PID: pid, BootID: boot}, err
}
