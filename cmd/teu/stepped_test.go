package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A steppedRun is a command that was traced with all its children, and perhaps killed.
type steppedRun struct {
	steps  int    // system calls that change something, until the command ended or one was killed
	killed string // before which call, and who; empty if there were fewer calls
	code   int    // of the command, -1 if it was killed itself
	hung   bool   // the command did not end
	out    string
}

// steppedCalls change files, mounts, networks or processes, or lock.
var steppedCalls = map[uint64]struct {
	name string
	path int // which argument, -1 for none
}{
	unix.SYS_RENAMEAT: {"renameat", 3}, unix.SYS_RENAMEAT2: {"renameat2", 3}, unix.SYS_LINKAT: {"linkat", 3},
	unix.SYS_UNLINKAT: {"unlinkat", 1}, unix.SYS_MKDIRAT: {"mkdirat", 1}, unix.SYS_SYMLINKAT: {"symlinkat", 2},
	unix.SYS_MKNODAT: {"mknodat", 1}, unix.SYS_OPENAT: {"openat", 1}, unix.SYS_MOUNT: {"mount", 1}, unix.SYS_UMOUNT2: {"umount2", 0},
	unix.SYS_MOVE_MOUNT: {"move_mount", 3}, unix.SYS_FSYNC: {"fsync", -1}, unix.SYS_SYNCFS: {"syncfs", -1}, unix.SYS_CLONE: {"clone", -1},
	unix.SYS_CLONE3: {"clone3", -1}, unix.SYS_EXECVE: {"execve", 0}, unix.SYS_EXECVEAT: {"execveat", -1}, unix.SYS_SETNS: {"setns", -1},
	unix.SYS_SENDTO: {"sendto", -1}, unix.SYS_SENDMSG: {"sendmsg", -1}, unix.SYS_WRITE: {"write", -1}, unix.SYS_FTRUNCATE: {"ftruncate", -1},
	unix.SYS_FCHMODAT: {"fchmodat", 1}, unix.SYS_UTIMENSAT: {"utimensat", 1}, unix.SYS_FLOCK: {"flock", -1},
}

// stepped runs cmd, and kills whichever of its processes comes to the call number at, before it is made.
// The thread that traces ends with it, by which the kernel lets go of the processes that go on.
func stepped(cmd *exec.Cmd, at int) (run steppedRun, err error) {
	done := make(chan struct{})
	var inThread func()
	inThread = func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			go inThread() // the main thread would not end
			<-done
			return
		}
		defer close(done)
		run, err = trace(cmd, at)
	}
	go inThread()
	<-done
	return run, err
}

func trace(cmd *exec.Cmd, at int) (run steppedRun, err error) {
	out, err := os.CreateTemp("", "stepped-")
	if err != nil {
		return run, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return run, err
	}
	defer r.Close()
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return run, err
	}
	defer null.Close()
	args := append([]string{"sh", "-c", `read -r _ <&3; exec 3<&-; exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	pid, err := syscall.ForkExec("/bin/sh", args, &syscall.ProcAttr{Env: cmd.Env, Dir: cmd.Dir, Files: []uintptr{null.Fd(), out.Fd(), out.Fd(), r.Fd()}})
	if err != nil {
		return run, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC
	if err := ptrace(unix.PTRACE_SEIZE, pid, 0, options); err != nil {
		return run, err
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, pid, 0, 0); err != nil {
		return run, err
	}
	if _, err := w.Write([]byte("\n")); err != nil {
		return run, err
	}
	run.code = -1
	begun := false
	overdue := time.AfterFunc(time.Minute, func() { run.hung = true; unix.Kill(pid, unix.SIGKILL) })
	defer overdue.Stop()
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return run, fmt.Errorf("waiting: %w", err)
		case status.Exited() || status.Signaled():
			if tid != pid {
				continue
			}
			if status.Exited() {
				run.code = status.ExitStatus()
			}
			said, err := os.ReadFile(out.Name())
			run.out = string(said)
			return run, err
		case !status.Stopped():
			continue
		}
		signal := uintptr(0)
		switch event := status >> 16; {
		case event == unix.PTRACE_EVENT_STOP && status.StopSignal() != unix.SIGTRAP:
			_ = ptrace(unix.PTRACE_LISTEN, tid, 0, 0)
			continue
		case event == unix.PTRACE_EVENT_EXEC && tid == pid:
			begun = true
		case event != 0:
		case status.StopSignal() == unix.SIGTRAP|0x80:
			what, ok := stepOf(tid)
			if !begun || !ok {
				break
			}
			if run.steps++; run.steps == at {
				group := groupOf(tid)
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", group))
				run.killed = fmt.Sprintf("step %d: %s of %s", at, what, bytes.ReplaceAll(comm, []byte{0}, []byte{' '}))
				unix.Kill(group, unix.SIGKILL)
			}
		default:
			signal = uintptr(status.StopSignal())
		}
		_ = ptrace(unix.PTRACE_SYSCALL, tid, 0, signal) // of one that was killed: ESRCH
	}
}

func ptrace(request, pid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0)
	if errno != 0 {
		return fmt.Errorf("ptrace %#x: %w", request, errno)
	}
	return nil
}

func groupOf(tid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := bytes.Cut(b, []byte("\nTgid:"))
	group := tid
	_, _ = fmt.Sscan(string(rest), &group)
	return group
}

// stepOf describes the call at whose entry a thread stopped, if it is one that changes something.
func stepOf(tid int) (what string, ok bool) {
	var info struct {
		op     uint8
		_      [3]byte
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
		_      [8]byte
	}
	const getSyscallInfo, entry = 0x420e, 1
	if err := ptrace(getSyscallInfo, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info))); err != nil || info.op != entry {
		return "", false
	}
	call, ok := steppedCalls[info.nr]
	if !ok {
		return "", false
	}
	switch {
	case info.nr == unix.SYS_OPENAT && info.args[2]&unix.O_CREAT == 0, info.nr == unix.SYS_CLONE && info.args[0]&unix.CLONE_THREAD != 0:
		return "", false
	case info.nr == unix.SYS_WRITE, info.nr == unix.SYS_FSYNC, info.nr == unix.SYS_FLOCK:
		name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, info.args[0]))
		if !strings.HasPrefix(name, "/") || strings.HasPrefix(name, "/dev/pts/") || strings.Contains(name, "stepped-") { // a pipe or the output
			return "", false
		}
		return call.name + " " + name, true
	case call.path < 0:
		return call.name, true
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return call.name, true
	}
	defer mem.Close()
	var b [256]byte
	n, _ := mem.ReadAt(b[:], int64(info.args[call.path]))
	path, _, _ := bytes.Cut(b[:n], []byte{0})
	return call.name + " " + string(path), true
}
