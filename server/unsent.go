package server

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How many bytes of an answer may wait in the kernel beyond those under way to the client.
//
// Without a limit a file of a megabyte is queued whole by one sendfile(2), and has left the caches
// of the processor when the client reads it: eight clients on loopback get a third more with it. A
// large answer is not queued whole anyway, and every time the sender is woken for more costs: with
// the small limit 100 MB take half as much processor time again. What is under way is not limited,
// so neither is a client far away. tcp(7), TCP_NOTSENT_LOWAT.
const (
	maxUnsent      = 128 << 10
	maxUnsentLarge = 2 << 20
	largeAnswer    = 4 << 20
)

// unsent is the limit of a connection.
type unsent struct {
	conn     syscall.RawConn
	now      atomic.Int64
	patience atomic.Int64
}

type unsentKey struct{}

// limitUnsent bounds what waits in the kernel for c. It fits http.Server.ConnContext.
func limitUnsent(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return ctx
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return ctx
	}
	u := &unsent{conn: raw}
	u.limit(maxUnsent)
	return context.WithValue(ctx, unsentKey{}, u)
}

// ExpectAnswer makes the connection of a request, whose context is ctx, ready for an answer of size bytes.
func ExpectAnswer(ctx context.Context, size int64) {
	u, ok := ctx.Value(unsentKey{}).(*unsent)
	switch {
	case !ok:
	case size >= largeAnswer:
		u.limit(maxUnsentLarge)
	default:
		u.limit(maxUnsent)
	}
}

// CutStalled ends the connection of a request, whose context is ctx, when the client has taken nothing for so long of
// what the kernel has for it, whether it is gone or only does not read: tcp(7), TCP_USER_TIMEOUT.
func CutStalled(ctx context.Context, patience time.Duration) {
	u, ok := ctx.Value(unsentKey{}).(*unsent)
	if !ok || u.patience.Swap(int64(patience)) == int64(patience) {
		return
	}
	_ = u.conn.Control(func(fd uintptr) { // else it goes when the answer should be finished
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
	})
}

func (u *unsent) limit(n int64) {
	if u.now.Swap(n) == n {
		return
	}
	_ = u.conn.Control(func(fd uintptr) { // an old kernel sends more at once
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, int(n))
	})
}
