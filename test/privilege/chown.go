package privilege

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// WithoutChown runs f as root who may not give files away: what f makes and gives to another owner stays as it was
// before it had one.
func WithoutChown(t testing.TB, f func()) {
	t.Helper()
	NeedRoot(t)
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capget(&header, &sets[0]); err != nil {
			done <- err
			return
		}
		sets[0].Effective &^= 1 << unix.CAP_CHOWN
		if err := unix.Capset(&header, &sets[0]); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
