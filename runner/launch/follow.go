package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Release lets the process of a program go on that waits at the FIFO of a path, and follows it
// as [Follow] does.
func Release(p *Program, path string, pidfd *os.File, listener func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer unix.Close(fd)
	return Follow(p, &fifoReader{fd, int(pidfd.Fd())}, listener)
}

// Follow lets a paused program go on and returns when it has executed its command or
// failed with a [*StepError], or waits at its next [Assembler.Pause]. fifo is the reading
// end of its FIFO; reads of it must wait for the program, and end with it. listener is
// called with what [Assembler.SendNumber] sends, and may be nil.
func Follow(p *Program, fifo io.Reader, listener func(fd int) error) error {
	for {
		var buf [msgSize]byte
		_, err := io.ReadFull(fifo, buf[:])
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("following a launch program: %w", err)
		}
		m := *(*message)(unsafe.Pointer(&buf))
		switch m.kind {
		case msgFailed:
			return p.stepError(m)
		case msgReady:
			return nil
		case msgListener:
			if listener != nil {
				err = listener(int(m.value))
			}
			if err != nil {
				return err
			}
			continue
		}
		return fmt.Errorf("following a launch program: message %d", m.kind)
	}
}

// fifoReader reads a FIFO whose writer may not be there yet, or may never come because
// the process has died. It was opened with O_NONBLOCK: so poll(2) waits for the writer.
type fifoReader struct{ fd, pidfd int }

func (f *fifoReader) Read(b []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}, {Fd: int32(f.pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, err
		}
		if fds[0].Revents == 0 && fds[1].Revents == 0 {
			continue
		}
		n, err := unix.Read(f.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return 0, err
		case fds[0].Revents == 0: // no writer ever came
			return 0, unix.ESRCH
		}
		return 0, io.EOF
	}
}
