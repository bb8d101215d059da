package registry

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An earlyDialer dials so that the first bytes are in the packet that asks for the connection (TCP Fast Open, RFC
// 7413), which saves a round trip. A request in the clear fits into it; what TLS begins with nowadays does not. The kernel does that where the server has it, and a connection before has brought a
// cookie; it is an ordinary connection otherwise. What the dialer gives is such in all the caller sees: the first Write
// returns when there is a connection, or the error that dialing has.
type earlyDialer struct {
	plain, early net.Dialer
	patience     time.Duration // for the answer to the first packet
}

func newEarlyDialer(plain net.Dialer) *earlyDialer {
	// Longer than the kernel waits before it asks once more, without bytes, as it does where they get lost.
	d := &earlyDialer{plain: plain, early: plain, patience: 3 * time.Second}
	d.early.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// A kernel that cannot do it does without.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
	}
	return d
}

// dial is a DialContext.
func (d *earlyDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.early.DialContext(ctx, network, address)
	tcp, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		return c, err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c, nil
	}
	state := uint8(tcpClose)
	if err := raw.Control(func(fd uintptr) { state = stateOf(fd) }); err != nil || state != tcpSynSent {
		return c, nil
	}
	again := func() (net.Conn, error) { return d.plain.DialContext(context.WithoutCancel(ctx), network, address) }
	return &earlyConn{conn: c, again: again, patience: d.patience, ready: make(chan struct{}), closed: make(chan struct{})}, nil
}

const ( // of linux/tcp_states.h
	tcpSynSent = 2
	tcpClose   = 7
)

// earlyBytes fit into the first packet, whatever its options are.
const earlyBytes = 1200

// An earlyConn is a connection that the first Write makes.
type earlyConn struct {
	again    func() (net.Conn, error) // makes another, with nothing early about it
	patience time.Duration

	once   sync.Once
	ready  chan struct{} // closed when the first Write is done
	shut   sync.Once
	closed chan struct{}

	mu   sync.Mutex
	conn net.Conn // the first attempt, or the second
	err  error    // why there is no connection
}

// Write implements net.Conn.
func (c *earlyConn) Write(p []byte) (n int, err error) {
	begun := false
	c.once.Do(func() {
		begun = true
		defer close(c.ready)
		n, err = c.begin(p[:min(len(p), earlyBytes)])
	})
	if err != nil || begun && n == len(p) {
		return n, err
	}
	conn, err := c.made()
	if err != nil {
		return n, err
	}
	m, err := conn.Write(p[n:])
	return n + m, err
}

// begin writes p and waits until there is a connection. One that was refused, or of which nothing is heard, is made
// again in the usual way: the dialer knows the other addresses of the host, and what to say if there is none.
func (c *earlyConn) begin(p []byte) (int, error) {
	first := c.current().(*net.TCPConn)
	n, err := first.Write(p)
	if err == nil && c.connected(first) {
		return n, nil
	}
	first.Close() // nothing has arrived there
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	other, err := c.again()
	c.mu.Lock()
	if c.err = err; err == nil {
		c.conn = other
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if c.isClosed() { // meanwhile
		return 0, errors.Join(net.ErrClosed, other.Close())
	}
	return other.Write(p)
}

// connected waits for the answer to the first packet.
func (c *earlyConn) connected(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil || conn.SetWriteDeadline(time.Now().Add(c.patience)) != nil {
		return false
	}
	now := uint8(tcpSynSent)
	err = raw.Write(func(fd uintptr) bool {
		now = stateOf(fd)
		return now != tcpSynSent
	})
	return err == nil && now != tcpClose && conn.SetWriteDeadline(time.Time{}) == nil
}

func stateOf(fd uintptr) uint8 {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return tcpClose
	}
	return info.State
}

// made waits for the connection.
func (c *earlyConn) made() (net.Conn, error) {
	select {
	case <-c.ready:
	case <-c.closed:
		return nil, net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn, c.err
}

func (c *earlyConn) current() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

func (c *earlyConn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Read implements net.Conn.
func (c *earlyConn) Read(p []byte) (int, error) {
	conn, err := c.made()
	if err != nil {
		return 0, err
	}
	return conn.Read(p)
}

// Close implements net.Conn.
func (c *earlyConn) Close() error {
	c.shut.Do(func() { close(c.closed) })
	return c.current().Close()
}

// The rest is what the connection does.

func (c *earlyConn) LocalAddr() net.Addr                { return c.current().LocalAddr() }
func (c *earlyConn) RemoteAddr() net.Addr               { return c.current().RemoteAddr() }
func (c *earlyConn) SetDeadline(t time.Time) error      { return c.current().SetDeadline(t) }
func (c *earlyConn) SetReadDeadline(t time.Time) error  { return c.current().SetReadDeadline(t) }
func (c *earlyConn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }
