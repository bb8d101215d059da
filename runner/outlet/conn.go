package outlet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// bufferSize holds any datagram, and as much of a stream as is worth a system call.
const bufferSize = 128 << 10

// conn is a connection or a flow: its end at the containers and its end outside. No buffer is
// held while it waits for data, so that a thousand that say nothing cost little.
type conn struct {
	s      *server
	ctx    context.Context
	inside tcpip.Endpoint
	queue  *waiter.Queue // of inside
	out    outside
	stream bool   // else datagrams
	passed func() // is called after each
}

// outside is a *net.TCPConn or a *net.UDPConn.
type outside interface {
	net.Conn
	syscall.Conn
}

// leaving passes on what comes from the containers, until they close their side.
func (c *conn) leaving() error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		err := c.leave()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.EAGAIN):
			if err = c.await(ready); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// leave passes on what is there: unix.EAGAIN if that is nothing.
func (c *conn) leave() error {
	buf := c.s.buffers.Get().(*[]byte)
	defer c.s.buffers.Put(buf)
	w := tcpip.SliceWriter(*buf)
	got, err := c.inside.Read(&w, tcpip.ReadOptions{})
	switch err.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		return unix.EAGAIN
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	default:
		return failure("receiving from a container", err)
	}
	c.passed()
	_, failed := c.out.Write((*buf)[:got.Count])
	return failed
}

// arriving passes on what comes from outside, until that side is closed.
func (c *conn) arriving() error {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	raw, err := c.out.SyscallConn()
	if err != nil {
		return err
	}
	for {
		buf, n, err := c.read(raw)
		if err != nil {
			return err
		}
		if c.stream && n == 0 {
			c.s.buffers.Put(buf)
			return nil
		}
		c.passed()
		err = c.arrive((*buf)[:n], ready)
		c.s.buffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

// read waits for data from outside. The caller gives the buffer back.
func (c *conn) read(raw syscall.RawConn) (buf *[]byte, n int, err error) {
	closed := raw.Read(func(fd uintptr) bool {
		buf = c.s.buffers.Get().(*[]byte)
		for {
			if n, err = unix.Read(int(fd), *buf); err != unix.EINTR {
				break
			}
		}
		if err != nil {
			c.s.buffers.Put(buf)
		}
		return err != unix.EAGAIN
	})
	return buf, n, errors.Join(closed, err)
}

// arrive gives the containers b. A datagram for which there is no room is lost, as on any way.
func (c *conn) arrive(b []byte, ready <-chan struct{}) error {
	for {
		n, err := c.inside.Write(bytes.NewReader(b), tcpip.WriteOptions{Atomic: !c.stream})
		b = b[n:]
		_, full := err.(*tcpip.ErrWouldBlock)
		switch {
		case err != nil && !full:
			return failure("sending to a container", err)
		case !c.stream || len(b) == 0:
			return nil
		case full:
			if err := c.await(ready); err != nil {
				return err
			}
		}
	}
}

func (c *conn) await(ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-c.ctx.Done():
		return fmt.Errorf("closed: %w", context.Cause(c.ctx))
	}
}
