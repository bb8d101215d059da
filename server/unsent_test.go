package server

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLimitUnsent: the kernel is told, also below TLS, for each answer anew, and other kinds of connections stay as they are.
func TestLimitUnsent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain": func(c net.Conn) net.Conn { return c },
		"TLS":   func(c net.Conn) net.Conn { return tls.Server(c, &tls.Config{}) },
	} {
		_, conn := connected(t, ln)
		ctx := limitUnsent(t.Context(), wrap(conn))
		for _, step := range []struct {
			size int64 // of the answer that is expected; -1: none
			want int
		}{{-1, maxUnsent}, {1e8, maxUnsentLarge}, {2e8, maxUnsentLarge}, {1e6, maxUnsent}, {0, maxUnsent}} {
			if step.size >= 0 {
				ExpectAnswer(ctx, step.size)
			}
			if got := unsentLimit(t, conn.(*net.TCPConn)); got != step.want {
				t.Errorf("%s: for an answer of %d bytes the limit is %d, want %d", name, step.size, got, step.want)
			}
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ExpectAnswer(limitUnsent(t.Context(), a), 1e8)
}

// TestCutStalled: who reads nothing is cut off by the kernel, and who goes on in time is not.
func TestCutStalled(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const patience = 2 * time.Second
	for name, reads := range map[string]bool{"nothing": false, "now and then": true} {
		t.Run(name, func(t *testing.T) {
			client, conn := connected(t, ln)
			ctx := limitUnsent(t.Context(), conn)
			CutStalled(ctx, patience)
			if reads {
				go func() {
					for b := make([]byte, 8<<20); ; time.Sleep(patience / 4) {
						if _, err := client.Read(b); err != nil {
							return
						}
					}
				}()
			}
			begun := time.Now()
			_ = conn.SetWriteDeadline(begun.Add(5 * patience))
			var err error
			for b := make([]byte, 1<<20); err == nil; {
				_, err = conn.Write(b)
			}
			conn.Close()
			if cut := errors.Is(err, unix.ETIMEDOUT); cut == reads {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	CutStalled(limitUnsent(t.Context(), a), patience)
}

// connected are the two ends of a connection to ln, until the test has ended.
func connected(t *testing.T, ln net.Listener) (client, conn net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if conn, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client, conn
}

func unsentLimit(t *testing.T, c *net.TCPConn) (limit int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		limit, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return limit
}
