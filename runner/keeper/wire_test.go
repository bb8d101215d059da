package keeper

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// connected returns the two ends of a connection.
func connected(t testing.TB) (ours *net.UnixConn, theirs *conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := func(fd int) *net.UnixConn {
		file := os.NewFile(uintptr(fd), "")
		defer file.Close()
		c, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return end(pair[0]), newConn(end(pair[1]))
}

// TestCloseBesideCopy: a stream is closed twice, while output comes. The race detector sees whether that disturbs.
func TestCloseBesideCopy(t *testing.T) {
	for range 100 {
		ours, theirs := connected(t)
		keeper, client := newConn(ours), newStream(theirs)
		var all sync.WaitGroup
		all.Go(func() {
			for keeper.write(frameStdout, []byte("output")) == nil {
			}
		})
		all.Go(func() { client.Copy(io.Discard, io.Discard) })
		all.Go(func() { client.Close() })
		client.Close()
		all.Wait()
		keeper.Close()
	}
}
