package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/slack"
)

// Child is a process that has been started and not yet waited for.
type Child struct {
	PID     int      // as the starter's PID namespace sees it
	PIDFD   *os.File // never nil
	Console *os.File // master of the terminal the program made, or nil
	// Listener is what the program sent by [Assembler.SendListener], or nil.
	Listener *os.File
}

// Start runs p in a new process and returns when the program has executed something,
// sent [Assembler.Ready] or failed. files become the descriptors of the child from 0 on;
// they stay the caller's. A failed operation is a [*StepError], and then no process is left.
//
// The starter must not reap children it does not know (wait4(-1)): that breaks Start and
// [Child.Wait].
func Start(p *Program, files []*os.File) (*Child, error) {
	b, err := Begin(p, files)
	if err != nil {
		return nil, err
	}
	return b.Follow()
}

// Beginning is a process that has begun to run a program.
type Beginning struct {
	program *Program
	first   *Child
	control *os.File
}

// Begin is the first half of [Start]; the caller has a moment for other things, and then calls Follow.
func Begin(p *Program, files []*os.File) (*Beginning, error) {
	if len(files) != p.opts.Slots {
		return nil, fmt.Errorf("launching: %d files for %d slots", len(files), p.opts.Slots)
	}
	fds, err := holdFiles(files)
	if err != nil {
		return nil, fmt.Errorf("launching: %w", err)
	}
	defer closeAll(fds)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("launching: making the control socket: %w", err)
	}
	control := os.NewFile(uintptr(pair[0]), "launch control")
	theirs, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD_CLOEXEC, p.opts.Slots+1)
	unix.Close(pair[1])
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("launching: %w", err)
	}
	first, err := p.fork(fds, theirs)
	unix.Close(theirs)
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("launching: making the process: %w", err)
	}
	return &Beginning{p, first, control}, nil
}

// PIDFD is that of the [Child] to come, nil if the program makes another process for that.
func (b *Beginning) PIDFD() *os.File {
	if b.program.forks() {
		return nil
	}
	return b.first.PIDFD
}

// Follow is the second half of [Start].
func (b *Beginning) Follow() (*Child, error) {
	defer b.control.Close()
	return b.program.follow(b.first, int(b.control.Fd()))
}

// holdFiles duplicates files to descriptors above all slots, so that the child can put
// them in place in any order. Descriptors 0 to 2 are made blocking: a container's program
// does not expect the mode the Go runtime likes.
func holdFiles(files []*os.File) (fds []int32, err error) {
	for i, f := range files {
		if f == nil {
			closeAll(fds)
			return nil, fmt.Errorf("slot %d: no file", i)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("slot %d: %w", i, err)
		}
		var fd int
		var dupErr error
		if err := raw.Control(func(u uintptr) {
			fd, dupErr = unix.FcntlInt(u, unix.F_DUPFD_CLOEXEC, len(files)+1)
			if i < 3 && dupErr == nil {
				dupErr = unix.SetNonblock(fd, false)
			}
		}); err != nil || dupErr != nil {
			closeAll(fds)
			return nil, fmt.Errorf("slot %d: %w", i, errors.Join(err, dupErr))
		}
		fds = append(fds, int32(fd))
	}
	return fds, nil
}

func closeAll(fds []int32) {
	for _, fd := range fds {
		unix.Close(int(fd))
	}
}

// fork prepares the child's memory and makes it. Console is not set yet.
func (p *Program) fork(fds []int32, control int) (*Child, error) {
	data := make([]byte, len(p.data)+16) // the zeros behind end every string and list
	copy(data, p.data)
	base := unsafe.Pointer(&data[0])
	for _, r := range p.relocs {
		*(*uint64)(unsafe.Add(base, r.at)) = uint64(uintptr(base)) + uint64(r.to)
	}
	ops := make([]op, len(p.ops))
	copy(ops, p.ops)
	for i := range ops {
		for k := range ops[i].args {
			if ops[i].kinds[k] == argData && (ops[i].nr < opStore || ops[i].nr == opExec) {
				ops[i].args[k] += uint64(uintptr(base))
			}
		}
	}
	results := make([]int64, len(ops))
	im := &image{ops: &ops[0], results: &results[0], count: len(ops), data: base,
		files: &fds[0], slots: len(fds), control: int32(control)}
	req := &forkRequest{flags: p.opts.CloneFlags | unix.CLONE_PIDFD}
	if p.opts.CgroupDir != "" {
		dir, err := unix.Open(p.opts.CgroupDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("opening cgroup %s: %w", p.opts.CgroupDir, err)
		}
		defer unix.Close(dir)
		im.born = true
		req.args = cloneArgs{flags: req.flags | unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD),
			pidfd: uint64(uintptr(unsafe.Pointer(&req.pidfd))), cgroup: uint64(dir)}
	}
	syscall.ForkLock.Lock()
	var pid uintptr
	var errno syscall.Errno
	slack.Usual(func() {
		pid, errno = fork(im, req)
		if errno != 0 && im.born { // no clone3, not a cgroup2 directory, or not allowed there
			im.born, req.args.cgroup = false, 0
			pid, errno = fork(im, req)
		}
	})
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(data)
	runtime.KeepAlive(ops)
	runtime.KeepAlive(results)
	runtime.KeepAlive(fds)
	if errno != 0 {
		return nil, errno
	}
	return &Child{PID: int(pid), PIDFD: os.NewFile(uintptr(req.pidfd), "pidfd")}, nil
}

// follow listens to the child until it has executed something, failed or is ready.
func (p *Program) follow(first *Child, control int) (*Child, error) {
	var (
		console, listener *os.File
		second            int // pid of the child the first one made
		failure           error
		ready             bool
	)
	for !ready || (p.forks() && second == 0) {
		m, fd, err := receive(control)
		if fd >= 0 {
			to := &console
			if m.kind == msgListener {
				to = &listener
			}
			closeFile(*to)
			*to = os.NewFile(uintptr(fd), "from the child")
		}
		if err != nil {
			failure = fmt.Errorf("launching: reading the control socket: %w", err)
			break
		}
		if m.kind == 0 {
			break
		}
		switch m.kind {
		case msgFailed:
			failure = p.stepError(m)
		case msgPID:
			second = int(m.value)
		case msgReady:
			ready = true
		}
	}
	child := first
	if p.forks() && (second != 0 || failure == nil) {
		var err error
		if child, err = p.adopt(first, second); err != nil {
			failure = errors.Join(failure, err)
		}
	}
	if failure != nil {
		closeFile(console)
		closeFile(listener)
		return nil, errors.Join(failure, child.destroy())
	}
	child.Console, child.Listener = console, listener
	return child, nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// adopt reaps the intermediate process and takes the one it made.
func (p *Program) adopt(first *Child, pid int) (*Child, error) {
	exit, err := first.Wait()
	if err != nil {
		return nil, fmt.Errorf("launching: waiting for the intermediate process: %w", err)
	}
	if pid == 0 {
		return nil, fmt.Errorf("launching: the intermediate process ended with status %d", exit.Code)
	}
	// Our child, and nobody else reaps it: the pid cannot have been used again.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("launching: pidfd of %d: %w", pid, err)
	}
	return &Child{PID: pid, PIDFD: os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (p *Program) forks() bool {
	for i := range p.ops {
		if p.ops[i].nr == opFork {
			return true
		}
	}
	return false
}

// receive reads one message; kind 0 is the end. fd is -1 unless one came with it.
func receive(control int) (m message, fd int, err error) {
	var buf [msgSize]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(control, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(control, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	fd = -1
	if oobn > 0 {
		if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
				fd = fds[0]
			}
		}
	}
	if err != nil || n == 0 {
		return message{}, fd, err
	}
	if n != msgSize {
		return message{}, fd, fmt.Errorf("message of %d bytes", n)
	}
	return *(*message)(unsafe.Pointer(&buf)), fd, nil
}
