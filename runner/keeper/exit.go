package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/launch"
)

// process is the container's pid 1: our child, or one whose parent was an earlier keeper.
type process struct {
	id    statefile.Process
	child *launch.Child // nil if adopted

	mu    sync.RWMutex
	pidfd *os.File // nil once the end has been seen
}

// use calls f with the pidfd, which stays open meanwhile. If the process has ended it
// returns ESRCH.
func (p *process) use(f func(pidfd *os.File) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.pidfd == nil {
		return unix.ESRCH
	}
	return f(p.pidfd)
}

func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
}

// childProcess is a child that has just been started. It gets a pidfd of its own, because
// waiting for the child closes the other.
func childProcess(c *launch.Child) (*process, error) {
	id, err := identifyChild(c.PID)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(c.PIDFD.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &process{id: id, pidfd: os.NewFile(uintptr(fd), "container"), child: c}, nil
}

// codeUnknown is reported, with an explanation, when the exit status is lost.
const codeUnknown = 137

// adoptProcess takes hold of a living process, or one that is not yet reaped.
func adoptProcess(id statefile.Process) (*process, error) {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", id.PID, err)
	}
	p := &process{id: id, pidfd: os.NewFile(uintptr(fd), "container")}
	// The pidfd may be of a younger process with the same number.
	if now, err := statefile.Identify(id.PID); err == nil && now != id {
		p.pidfd.Close()
		return nil, fmt.Errorf("process %d: %w", id.PID, unix.ESRCH)
	}
	return p, nil
}

func (p *process) signal(s unix.Signal) error {
	return p.use(func(pidfd *os.File) error {
		if err := unix.PidfdSendSignal(int(pidfd.Fd()), s, nil, 0); err != nil {
			return fmt.Errorf("pidfd_send_signal %d to %d: %w", s, p.id.PID, err)
		}
		return nil
	})
}

// wait returns how the process ended, after it did.
func (p *process) wait() ExitStatus {
	if p.child != nil {
		e, err := p.child.Wait()
		if err != nil {
			return ExitStatus{Code: codeUnknown, Error: err.Error()}
		}
		return ExitStatus{Code: e.Code}
	}
	if p.pidfd == nil {
		return lostStatus()
	}
	pollExit(int(p.pidfd.Fd()))
	return adoptedStatus(int(p.pidfd.Fd()), p.id.PID)
}

// pollExit returns when the process has ended (pidfd_open(2), "A process file descriptor
// ... polls as readable").
func pollExit(pidfd int) {
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, -1)
		if n > 0 || (err != nil && err != unix.EINTR) {
			return
		}
	}
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, as of Linux 6.15.
type pidfdInfo struct {
	Mask                                           uint64
	Cgroup                                         uint64
	PID, TGID, PPID                                uint32
	RUID, RGID, EUID, EGID, SUID, SGID, FUID, FGID uint32
	ExitCode                                       int32
	_                                              [2]uint32
}

const (
	pidfdGetInfo  = 0xc048ff0b // _IOWR(0xFF, 11, 72 bytes); later kernels take any larger size
	pidfdInfoExit = 1 << 3
)

// adoptedStatus asks the kernel how a process ended that is not our child: by
// PIDFD_GET_INFO (Linux 6.15) once it has been reaped, or while it has not, in /proc.
func adoptedStatus(pidfd, pid int) ExitStatus {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		info := pidfdInfo{Mask: pidfdInfoExit}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.Mask&pidfdInfoExit != 0 {
			return ExitStatus{Code: shellCode(unix.WaitStatus(info.ExitCode))}
		}
		if ws, err := zombieStatus(pid); err == nil {
			return ExitStatus{Code: shellCode(ws)}
		}
		if time.Now().After(deadline) {
			return lostStatus()
		}
	}
}

func lostStatus() ExitStatus {
	return ExitStatus{Code: codeUnknown, Error: "the exit status was lost with an earlier keeper"}
}

// zombieStatus reads exit_code, the last field of proc_pid_stat(5).
func zombieStatus(pid int) (unix.WaitStatus, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 50 || fields[0] != "Z" {
		return 0, errors.New("not a zombie")
	}
	n, err := strconv.ParseUint(fields[49], 10, 32)
	return unix.WaitStatus(n), err
}

// shellCode is the exit code a shell shows for a wait status.
func shellCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
