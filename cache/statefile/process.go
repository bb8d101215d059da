package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Process names a process so that a later process with the same pid is not mistaken for it.
// It is meant for processes of one pid namespace.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks after boot, proc_pid_stat(5) field 22
	BootID    string `json:"bootID"`
}

// Tick is the unit of times in /proc, 1/USER_HZ: 100 on every architecture we build for.
const Tick = 10 * time.Millisecond

// Age is how long ago the process began, whatever has been done to the clock since. Of one that had ended before it could
// be identified it is 0.
func (p Process) Age() time.Duration {
	var now unix.Timespec
	if p.StartTime == 0 || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return max(0, time.Duration(now.Nano())-time.Duration(p.StartTime)*Tick)
}

// BootID returns the kernel's identity of this boot.
func BootID() (string, error) { return bootID() }

// bootID remembers what cannot change while this process lives; every Alive wants it.
var bootID = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
})

// Self identifies the calling process.
func Self() (Process, error) { return Identify(os.Getpid()) }

// maxStat is above any proc_pid_stat(5): 52 numbers and a short name.
const maxStat = 4096

// Identify identifies the process pid. A missing one, or a zombie, is an errdefs.ErrNotFound.
func Identify(pid int) (Process, error) {
	if pid <= 0 {
		return Process{}, fmt.Errorf("process %d: %w", pid, errdefs.ErrInvalidArgument)
	}
	boot, err := BootID()
	if err != nil {
		return Process{}, err
	}
	stat, err := ReadFile("/proc/"+strconv.Itoa(pid)+"/stat", maxStat)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Process{}, fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return Process{}, err
	}
	state, start, err := parseStat(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	if state == "Z" || state == "X" {
		return Process{}, fmt.Errorf("process %d has ended: %w", pid, errdefs.ErrNotFound)
	}
	return Process{PID: pid, StartTime: start, BootID: boot}, nil
}

// parseStat finds the state and start time in proc_pid_stat(5). The name of the program, in
// parentheses, may hold spaces and parentheses itself.
func parseStat(stat string) (state string, start uint64, err error) {
	const stateField, startField = 3, 22 // counted from 1; the first after the name is 3
	n := stateField
	for field := range strings.FieldsSeq(stat[strings.LastIndexByte(stat, ')')+1:]) {
		switch n {
		case stateField:
			state = field
		case startField:
			start, err = strconv.ParseUint(field, 10, 64)
			return state, start, err
		}
		n++
	}
	return "", 0, fmt.Errorf("stat has %d fields: %w", n-1, errdefs.ErrDataLoss)
}

// Alive says whether the process still runs; a zombie does not. When it cannot be told, as
// with a /proc mounted with hidepid, the process counts as alive if a signal could reach it.
func (p Process) Alive() bool {
	now, err := Identify(p.PID)
	if err == nil {
		return now == p
	}
	if errdefs.IsNotFound(err) || p.PID <= 0 {
		return false
	}
	return unix.Kill(p.PID, 0) != unix.ESRCH
}
