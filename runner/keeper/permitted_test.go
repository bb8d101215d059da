package keeper

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// The socket's directory is closed to others; should one of them hold the socket all the same, it is not obeyed.
func TestOnlyItsUserCommandsAKeeper(t *testing.T) {
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("", "k") // open to everybody, unlike the test's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]bool{0: true, 4711: false} {
		client := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: its user is another one
			if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				client <- errno
				return
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			}
			client <- err
		}()
		if err := <-client; err != nil {
			t.Fatalf("user %d: %v", uid, err)
		}
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		if got := permitted(c); got != want {
			t.Errorf("user %d: got %v, want %v", uid, got, want)
		}
		c.Close()
	}
}
