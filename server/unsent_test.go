package server

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLimitUnsent: the kernel is told, also below TLS, and other kinds of connections stay as they are.
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
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if ctx := limitUnsent(t.Context(), wrap(conn)); ctx != t.Context() {
			t.Errorf("%s: the context is another", name)
		}
		if got := unsentLimit(t, conn.(*net.TCPConn)); got != maxUnsent {
			t.Errorf("%s: the limit is %d, want %d", name, got, maxUnsent)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	limitUnsent(t.Context(), a)
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
