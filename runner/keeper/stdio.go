package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/selinux"
)

// stdio is the container's standard streams during one run of its program.
type stdio struct {
	cfg     *Config
	out     [2]*os.File // read ends of the FIFOs; nil for a terminal
	console *os.File    // master of the terminal, or nil

	mu     sync.Mutex
	in     *os.File // write end of the FIFO or the master; nil if closed
	holder *holder  // guarded by the supervisor's lock, as is closed
	closed bool
}

func (c *Config) fifo(name string) string { return filepath.Join(c.RunDir, name) }

// outPipeSize is how much a container may say while it has no keeper.
const outPipeSize = 1 << 20

// makeFIFOs makes the FIFOs of a container without a terminal.
func (c *Config) makeFIFOs() error {
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		path := c.fifo(name)
		if err := unix.Mkfifo(path, 0o600); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		// So that a process of the container's user may open /dev/stdout again.
		if err := os.Chown(path, c.UID, c.GID); err != nil {
			return err
		}
		if c.Label == "" {
			continue
		}
		if err := selinux.SetFile(path, c.Label); err != nil {
			return err
		}
	}
	return nil
}

// openStreams opens the keeper's ends of the FIFOs and the container's, which are given
// to the launch and then closed.
func openStreams(cfg *Config) (s *stdio, theirs []*os.File, err error) {
	s = &stdio{cfg: cfg}
	defer func() {
		if err != nil {
			closeAll(theirs)
			s.close()
		}
	}()
	if cfg.TTY {
		for range 3 { // the program replaces them by its terminal
			f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				return s, theirs, err
			}
			theirs = append(theirs, f)
		}
		return s, theirs, nil
	}
	if err := cfg.makeFIFOs(); err != nil {
		return s, theirs, err
	}
	in, err := s.openInput()
	if err != nil {
		return s, theirs, err
	}
	theirs = append(theirs, in)
	if err := s.openOutputs(); err != nil {
		return s, theirs, err
	}
	for _, name := range streamNames {
		// Read and write: the container always has a reader, itself, so our death is no SIGPIPE.
		f, err := openBlocking(cfg.fifo(name), unix.O_RDWR)
		if err != nil {
			return s, theirs, err
		}
		theirs = append(theirs, f)
		unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, outPipeSize) // best effort
	}
	return s, theirs, nil
}

// openBlocking opens without the poller: the description is shared with the container,
// which expects blocking streams.
func openBlocking(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openInput returns the container's standard input and keeps our end of it.
func (s *stdio) openInput() (*os.File, error) {
	if !s.cfg.OpenStdin {
		return openBlocking("/dev/null", unix.O_RDONLY)
	}
	theirs, err := openBlocking(s.cfg.fifo("stdin"), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := s.openInputEnd(); err != nil {
		theirs.Close()
		return nil, err
	}
	if err := unix.SetNonblock(int(theirs.Fd()), false); err != nil {
		theirs.Close()
		return nil, err
	}
	return theirs, nil
}

func (s *stdio) openInputEnd() error {
	f, err := os.OpenFile(s.cfg.fifo("stdin"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	s.in = f
	return err
}

func (s *stdio) openOutputs() error {
	for i, name := range streamNames {
		f, err := os.OpenFile(s.cfg.fifo(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		s.out[i] = f
	}
	return nil
}

// useConsole takes the master of the terminal a program made. f stays the caller's.
func (s *stdio) useConsole(f *os.File) error {
	console, err := usePoller(f)
	if err != nil {
		return err
	}
	s.console, s.in = console, console
	return nil
}

// usePoller returns another descriptor of f whose reads cost no thread and end when it is closed.
func usePoller(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(descriptor(f)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stream"), nil // with the poller, being non-blocking
}

// pump moves output to the sink until the last process of the container has closed it.
func (s *stdio) pump(to sink) error {
	if s.console != nil {
		return pumpConsole(s.console, to)
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, f := range s.out {
		if f == nil { // a terminal that was lost
			continue
		}
		wg.Go(func() { errs[i] = pumpFIFO(f, i, to) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// write gives input to the container.
func (s *stdio) write(b []byte) error {
	s.mu.Lock()
	in := s.in
	s.mu.Unlock()
	if in == nil {
		return os.ErrClosed
	}
	_, err := in.Write(b)
	return err
}

// closeInput tells the container that there will be no more input. It reports whether
// there could have been some before: the holder then still has a copy of our end.
func (s *stdio) closeInput() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil || s.in == s.console {
		return false
	}
	s.in.Close()
	s.in = nil
	return true
}

func (s *stdio) resize(columns, rows uint16) error {
	if s.console == nil {
		return nil
	}
	err := unix.IoctlSetWinsize(descriptor(s.console), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	if err != nil {
		return fmt.Errorf("resizing the terminal: %w", err)
	}
	return nil
}

// close releases everything but the holder; pumps end.
func (s *stdio) close() {
	s.closed = true
	s.closeInput()
	for _, f := range s.out {
		if f != nil {
			f.Close()
		}
	}
	if s.console != nil {
		s.console.Close()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Pipe makes a pipe for a process of a container. One with an SELinux label it could not use, as the label of a pipe
// is that of who makes it, which cannot be changed: with a label it is a FIFO in dir instead, whose name is gone
// when Pipe returns.
func Pipe(dir, label string) (r, w int, err error) {
	if label == "" {
		var pair [2]int
		err = unix.Pipe2(pair[:], unix.O_CLOEXEC)
		return pair[0], pair[1], err
	}
	path := filepath.Join(dir, fmt.Sprintf(".pipe-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return -1, -1, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	defer unix.Unlink(path)
	if err := selinux.SetFile(path, label); err != nil {
		return -1, -1, err
	}
	if r, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		w, err = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(r, false)
		}
	}
	if err != nil {
		return -1, -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return r, w, nil
}
