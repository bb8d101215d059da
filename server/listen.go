package server

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitingEarly is how many connections with early bytes may wait to be accepted; others go the usual way.
const waitingEarly = 256

// Listen listens on a TCP address. Where the system has TCP Fast Open for servers (net.ipv4.tcp_fastopen with bit 2),
// clients that were here before may send their first bytes with the packet that asks for a connection. Such
// a packet may come twice, so it is for servers to which a repeated request does no harm.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// A kernel that cannot do it does without.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, waitingEarly)
		})
	}}
	return c.Listen(ctx, "tcp", address)
}
