package statefile

import (
	"bytes"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ReadFile returns the content of a small file, a document's or one of /proc and /sys. It makes
// the system calls that need be: os.Open also tells Go's poller about the file, which is
// three times the work of reading it. More than limit bytes are an errdefs.ErrResourceExhausted.
func ReadFile(path string, limit int) ([]byte, error) {
	fd, err := open(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var first [4096]byte // most files fit, and cost the heap no more than their size
	n, err := readFull(fd, first[:])
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	data := bytes.Clone(first[:n])
	for n == len(first) && len(data) <= limit {
		if n, err = readFull(fd, first[:]); err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		data = append(data, first[:n]...)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("reading %s: larger than %d bytes: %w", path, limit, errdefs.ErrResourceExhausted)
	}
	return data, nil
}

func open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readFull reads until b is full or the file ends.
func readFull(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		k, err := unix.Read(fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if k <= 0 || err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}
