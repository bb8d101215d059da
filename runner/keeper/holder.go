package keeper

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// holder is a sleeping process that shares one descriptor with the keeper: the master of
// a terminal, whose loss would hang up the container, or the write end of a standard
// input, whose loss would end it. The next keeper takes it from there.
type holder struct {
	id  statefile.Process
	own bool // our child
}

const heldDescriptor = 3

func startHolder(f *os.File) (*holder, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	n := null.Fd()
	// Not os.StartProcess: it would take f away from the poller.
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"teu-keeper", "hold"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=25"},
		Files: []uintptr{n, n, n, uintptr(descriptor(f))},
	})
	runtime.KeepAlive(f)
	if err != nil {
		return nil, fmt.Errorf("starting a holder: %w", err)
	}
	h := &holder{own: true}
	if h.id, err = statefile.Identify(pid); err != nil {
		h.id.PID = pid
		h.end()
		return nil, err
	}
	return h, nil
}

// hold is the holder process.
func hold() int {
	for {
		unix.Pause()
	}
}

// take returns the descriptor of a holder that an earlier keeper started.
func (h *holder) take() (*os.File, error) {
	pidfd, err := unix.PidfdOpen(h.id.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", h.id.PID, err)
	}
	defer unix.Close(pidfd)
	if !h.id.Alive() {
		return nil, fmt.Errorf("holder %d: %w", h.id.PID, unix.ESRCH)
	}
	fd, err := unix.PidfdGetfd(pidfd, heldDescriptor, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd of %d: %w", h.id.PID, err)
	}
	return os.NewFile(uintptr(fd), "held"), nil
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
