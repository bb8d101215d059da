package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// maxUnsent is how many bytes of an answer may wait in the kernel beyond those under way to the
// client.
//
// Without a limit a file of a megabyte is queued whole by one sendfile(2), and has left the caches
// of the processor when the client reads it: eight clients on loopback get a third more with it.
// What is under way is not limited, so neither is a client far away. tcp(7), TCP_NOTSENT_LOWAT.
const maxUnsent = 128 << 10

// limitUnsent bounds what waits in the kernel for c. It fits http.Server.ConnContext.
func limitUnsent(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // an old kernel sends more at once
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
			})
		}
	}
	return ctx
}
