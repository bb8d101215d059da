package keeper

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

const chunkSize = 64 << 10

// sink gets output; recorder and clients together are one.
type sink interface {
	begin(index int, chunk []byte) (known int, at int64)
	record(index int, chunk []byte)
	consumed(index int) // the chunk does not wait in the FIFO any more
	broadcast(index int, at int64, chunk []byte)
}

// pumpFIFO moves output from a FIFO to the sink until no process holds its other end. A
// chunk is consumed only after it has been recorded and sent to attached clients.
func pumpFIFO(f *os.File, index int, s sink) error {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var at int64   // position of the chunk in the stream
	var buf []byte // made when there is something to read: most containers are silent
	for first := true; ; first = false {
		n, err := peek(raw, pair[1])
		if n == 0 || err != nil {
			return err
		}
		if buf == nil {
			buf = make([]byte, chunkSize)
		}
		if err := readFull(pair[0], buf[:n]); err != nil {
			return err
		}
		known := 0
		if first {
			known, at = s.begin(index, buf[:n])
		}
		if known > 0 { // it goes by itself, so that the note fits to what waits in the FIFO
			n = known
		} else {
			s.record(index, buf[:n])
		}
		s.broadcast(index, at, buf[:n])
		if err := consume(raw, null, n); err != nil {
			return err
		}
		s.consumed(index)
		at += int64(n)
	}
}

// peek copies what waits in a pipe to the pipe to, without consuming it. It waits until
// there is something; 0 means the end.
func peek(raw syscall.RawConn, to int) (n int, err error) {
	e := raw.Read(func(fd uintptr) bool {
		for {
			var k int64
			k, err = unix.Tee(int(fd), to, chunkSize, unix.SPLICE_F_NONBLOCK)
			n = int(k)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	return max(n, 0), errOr(e, err)
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return errOr(err, io.ErrUnexpectedEOF)
		}
		b = b[n:]
	}
	return nil
}

// consume throws away n bytes of a pipe. They may be gone already: a container can read
// its own output.
func consume(raw syscall.RawConn, null, n int) (err error) {
	e := raw.Control(func(fd uintptr) {
		for n > 0 {
			var k int64
			k, err = unix.Splice(int(fd), nil, null, nil, n, unix.SPLICE_F_NONBLOCK)
			if err != nil && err != unix.EINTR || err == nil && k == 0 {
				break
			}
			n -= int(max(k, 0))
		}
	})
	if err == unix.EAGAIN {
		err = nil
	}
	return errOr(e, err)
}

// pumpConsole moves output from the master of a terminal to the sink.
func pumpConsole(f *os.File, s sink) error {
	buf := make([]byte, chunkSize/2)
	_, at := s.begin(0, nil)
	console := launch.ConsoleReader{Master: f}
	for {
		n, err := console.Read(buf)
		if n > 0 {
			s.record(0, buf[:n])
			s.broadcast(0, at, buf[:n])
			at += int64(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
