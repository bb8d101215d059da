package keeper

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/program"
	"github.com/teu-dev/teu/runner/slack"
)

// Binary is the keeper's executable, open in a form that nobody can change, not even a
// container that gets hold of /proc/PID/exe (CVE-2019-5736): see [Share] and [Seal].
type Binary struct {
	f     *os.File
	group *os.File // see BornIn
}

// BornIn makes keepers begin their lives in a cgroup2 directory where that can be.
func (b *Binary) BornIn(dir string) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		b.group = os.NewFile(uintptr(fd), dir)
	}
}

// seals forbid every change of the memfd, and further seals.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Seal copies an executable into a memfd and seals it.
func Seal(elf []byte) (*Binary, error) {
	fd, err := unix.MemfdCreate("teu-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate("teu-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "teu-keeper")
	_, err = f.Write(elf)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing the keeper: %w", err)
	}
	return &Binary{f: f}, nil
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
	return &Binary{f: os.NewFile(uintptr(fd), sharedName)}, nil
}

// Close closes the executable. Running keepers keep theirs.
func (b *Binary) Close() error {
	if b.group != nil {
		b.group.Close()
	}
	return b.f.Close()
}

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
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		end.Close()
		return nil, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	defer unix.Close(null)
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null), theirs.Fd()}
	if stderr != nil {
		files[2] = stderr.Fd()
	}
	// What this process inherited (the lock of a script, the pipe of a shell) is not the
	// keeper's, which lives long. Before Linux 5.11 it is.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	args = append([]string{"teu-keeper"}, args...)
	attr := syscall.ProcAttr{Dir: "/", Env: environment(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if b.group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(b.group.Fd())
	}
	// Not os.StartProcess: the first one of a process has a child made to see what pidfds can do.
	var pid int
	slack.Usual(func() {
		pid, err = syscall.ForkExec(executable(b.f.Fd()), args, &attr)
		if err != nil && b.group != nil { // whatever keeps it out of the group
			attr.Sys.UseCgroupFD = false
			pid, err = syscall.ForkExec(executable(b.f.Fd()), args, &attr)
		}
	})
	runtime.KeepAlive(b)
	runtime.KeepAlive(stderr)
	if err != nil {
		end.Close()
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	go reap(pid)
	c := newConn(end.(*net.UnixConn))
	c.pid = pid
	return c, nil
}

// reap waits for the end of a child.
func reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// executable is the path by which a child executes the file behind a descriptor of this
// process. /proc/self would be the child's own table, in which the runtime moves other
// descriptors about, onto any number, before it executes.
func executable(fd uintptr) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }

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
