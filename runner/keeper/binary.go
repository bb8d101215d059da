package keeper

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// Binary is the keeper's executable in a sealed memfd: nobody can change what keepers
// execute, not even a container that gets hold of /proc/PID/exe (CVE-2019-5736).
type Binary struct {
	f      *os.File
	record string // where the next keeper is to be recorded, see Share
}

// seals forbid every change of the memfd, and further seals.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// highDescriptor keeps the memfd's number clear of those a child's files get, a handful.
// It is below 64: beyond, the kernel makes the table of descriptors larger, and in a process
// with threads waits for an RCU grace period first, 5 to 20 ms (fs/file.c, expand_fdtable).
const highDescriptor = 48

// Seal copies an executable into a memfd and seals it.
func Seal(elf []byte) (*Binary, error) {
	fd, err := unix.MemfdCreate("teu-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate("teu-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	low := os.NewFile(uintptr(fd), "teu-keeper")
	defer low.Close()
	if _, err := low.Write(elf); err != nil {
		return nil, fmt.Errorf("writing the keeper: %w", err)
	}
	if _, err := unix.FcntlInt(low.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("sealing the keeper: %w", err)
	}
	return moved(low)
}

// moved is the Binary of f under a number that is out of the way. f stays the caller's.
func moved(f *os.File) (*Binary, error) {
	high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, highDescriptor)
	if err != nil {
		return nil, fmt.Errorf("moving the keeper's descriptor: %w", err)
	}
	return &Binary{f: os.NewFile(uintptr(high), "teu-keeper")}, nil
}

// Share returns the executable of a keeper that runs, so that all keepers have it in
// memory once. record is a file that names one; if there is none, or it executes
// something else, the executable is sealed anew and its first keeper recorded.
func Share(elf []byte, record string) (*Binary, error) {
	if b, err := running(elf, record); err == nil {
		return b, nil
	}
	b, err := Seal(elf)
	if err == nil {
		b.record = record
	}
	return b, err
}

func running(elf []byte, record string) (*Binary, error) {
	var p statefile.Process
	if err := statefile.Read(record, &p); err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", p.PID))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The number may be of another process by now; what counts is what it executes.
	if got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || got&seals != seals {
		return nil, fmt.Errorf("the executable of %d is not sealed: %w", p.PID, errdefs.ErrFailedPrecondition)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != int64(len(elf)) {
		return nil, fmt.Errorf("the executable of %d is another: %w", p.PID, errdefs.ErrFailedPrecondition)
	}
	theirs, err := unix.Mmap(int(f.Fd()), 0, len(elf), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(theirs)
	if !bytes.Equal(theirs, elf) {
		return nil, fmt.Errorf("the executable of %d is another: %w", p.PID, errdefs.ErrFailedPrecondition)
	}
	return moved(f)
}

// recordKeeper lets the next teu share what a keeper executes. That it fails costs memory
// and nothing else.
func (b *Binary) recordKeeper(pid int) {
	if b.record == "" {
		return
	}
	if p, err := statefile.Identify(pid); err == nil {
		statefile.Write(b.record, &p, statefile.WriteOptions{})
	}
}

// Close releases the memfd. Running keepers keep theirs.
func (b *Binary) Close() error { return b.f.Close() }

// environment is all of a keeper's: it must not inherit credentials. It starts without
// garbage collection, see settle.
func environment() []string {
	return []string{"GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=24MiB", "GOTRACEBACK=single", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
}

// spawn starts a keeper in a session of its own and returns the connection to it. The
// process is reaped when it ends, by a goroutine that lives as long.
func (b *Binary) spawn(stderr *os.File, args ...string) (c *conn, pid int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "keeper")
	defer theirs.Close()
	defer ours.Close() // FileConn has its own
	end, err := net.FileConn(ours)
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.Cmd{
		Path:        fmt.Sprintf("/proc/self/fd/%d", b.f.Fd()),
		Args:        append([]string{"teu-keeper"}, args...),
		Env:         environment(),
		Dir:         "/",
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if stderr != nil {
		cmd.Stderr = stderr
	}
	if err := cmd.Start(); err != nil {
		end.Close()
		return nil, 0, fmt.Errorf("starting a keeper: %w", err)
	}
	go cmd.Wait()
	return newConn(end.(*net.UnixConn)), cmd.Process.Pid, nil
}

// initialConn is the connection a keeper was started with.
func initialConn() (*conn, error) {
	unix.CloseOnExec(3)
	f := os.NewFile(3, "starter")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, io.ErrClosedPipe
	}
	return newConn(u), nil
}
