package runner

import (
	"bytes"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/keeper"
)

// TestExecOutputStolen: what was left behind in a container reads from its own standard output.
func TestExecOutputStolen(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close() // so that there is no end
	if _, err := w.Write(bytes.Repeat([]byte("x"), 60<<10)); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	got := 0
	steal := writerFunc(func(b []byte) (int, error) {
		got += len(b)
		raw, err := r.SyscallConn()
		if err != nil {
			return 0, err
		}
		return len(b), raw.Control(func(fd uintptr) { unix.Read(int(fd), make([]byte, 64<<10)) })
	})
	copied := make(chan struct{})
	go func() {
		(&Exec{Process: &keeper.Process{}, Stdout: r}).copyOutput(steal, r)
		close(copied)
	}()
	select {
	case <-copied:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for bytes that somebody else has read")
	}
	if got == 0 || got >= 60<<10 {
		t.Errorf("%d bytes were copied of those that nobody took before", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
