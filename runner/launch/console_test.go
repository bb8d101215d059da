package launch

import (
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// lateBytes is a terminal whose last bytes come after a first EIO.
type lateBytes struct{ texts []string }

func (l *lateBytes) Read(b []byte) (int, error) {
	if len(l.texts) == 0 {
		return 0, unix.EIO
	}
	text := l.texts[0]
	l.texts = l.texts[1:]
	if text == "" {
		return 0, unix.EIO
	}
	return copy(b, text), nil
}

func TestConsoleReaderAsksAgain(t *testing.T) {
	b, err := io.ReadAll(ConsoleReader{&lateBytes{[]string{"first ", "", "last"}}})
	if err != nil || string(b) != "first last" {
		t.Errorf("%q, %v", b, err)
	}
	late := errors.New("late")
	if _, err := (ConsoleReader{iotest.ErrReader(late)}).Read(nil); err != late {
		t.Errorf("other errors are to stay as they are: %v", err)
	}
}
