package launch

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// ConsoleReader reads from the master of a terminal until nobody has the terminal open any more.
//
// Linux says EIO then, but also when the last bytes are still on their way: what is written to a
// terminal is handed to its master by a worker, and n_tty_read looks for the hang-up after it has
// looked for bytes. Whoever asks again gets them.
type ConsoleReader struct{ Master io.Reader }

func (c ConsoleReader) Read(b []byte) (int, error) {
	n, err := c.Master.Read(b)
	if errors.Is(err, unix.EIO) {
		n, err = c.Master.Read(b)
	}
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}
