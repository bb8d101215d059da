package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/program"
)

// Binary is the keeper's executable, open in a form that nobody can change, not even a
// container that gets hold of /proc/PID/exe (CVE-2019-5736): see [Share] and [Seal].
type Binary struct{ f *os.File }

// seals forbid every change of the memfd, and further seals.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// highDescriptor keeps the executable's number clear of those a child's files get, a handful.
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

// moved is the Binary of f, under a number that is out of the way. f stays the caller's.
func moved(f *os.File) (*Binary, error) {
	high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, highDescriptor)
	if err != nil {
		return nil, fmt.Errorf("moving the keeper's descriptor: %w", err)
	}
	return &Binary{os.NewFile(uintptr(high), "teu-keeper")}, nil
}

// Share returns the executable from a file below dir, a directory of root's, which is
// written when it is not there; self is the identity of the executable that carries it, see
// [program.Self]. All keepers then
// have it in memory once, and starting one copies nothing. They execute it through an
// overlay mount of their own that has no upper directory: nobody can write to it, whatever
// mount and whatever link it is reached by. Where that cannot be it is sealed in memory.
func Share(elf []byte, dir, self string) (*Binary, error) {
	b, err := share(elf, dir, self)
	if err == nil {
		return b, nil
	}
	b, e := Seal(elf)
	if e != nil {
		return nil, errors.Join(e, err)
	}
	return b, nil
}

const sharedName = "teu-keeper"

func share(elf []byte, dir, self string) (*Binary, error) {
	home, err := program.Unpack(dir, self, sharedName, func(w io.Writer) error {
		_, err := w.Write(elf)
		return err
	})
	if err != nil {
		return nil, err
	}
	m, err := mount.Overlay{Lowers: []string{home}}.Open()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	fd, err := unix.Openat(int(m.Fd()), sharedName, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(home, sharedName), Err: err}
	}
	f := os.NewFile(uintptr(fd), sharedName)
	defer f.Close()
	return moved(f)
}

// Close closes the executable. Running keepers keep theirs.
func (b *Binary) Close() error { return b.f.Close() }

// environment is all of a keeper's: it must not inherit credentials. It starts without
// garbage collection, see settle.
func environment() []string {
	return []string{"GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=24MiB", "GOTRACEBACK=single", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
}

// spawn starts a keeper in a session of its own and returns the connection to it. The
// process is reaped when it ends, by a goroutine that lives as long.
func (b *Binary) spawn(stderr *os.File, args ...string) (*conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "keeper")
	defer theirs.Close()
	defer ours.Close() // FileConn has its own
	end, err := net.FileConn(ours)
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	go cmd.Wait()
	return newConn(end.(*net.UnixConn)), nil
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
