package keeper

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// tcpForward joins TCP connections.
type tcpForward struct {
	forward  Forward
	listener *net.TCPListener
	target   atomic.Pointer[string]
}

func listenTCP(f Forward) (forwarder, error) {
	addr, err := net.ResolveTCPAddr(f.Network, f.Listen) // always an address, never a name
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP(f.Network, addr)
	if err != nil {
		return nil, err
	}
	t := &tcpForward{forward: f, listener: l}
	t.target.Store(&f.Target)
	return t, nil
}

func (f *tcpForward) listens() Forward        { return f.forward }
func (f *tcpForward) retarget(address string) { f.target.Store(&address) }
func (f *tcpForward) close()                  { f.listener.Close() }

func (f *tcpForward) run() {
	for {
		c, err := f.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, say
			continue
		}
		go f.connect(c)
	}
}

// connect joins a client to the container. If that refuses, the client sees a reset, as
// it would without us.
func (f *tcpForward) connect(c *net.TCPConn) {
	defer c.Close()
	d := net.Dialer{Timeout: 10 * time.Second}
	target, err := d.Dial("tcp", *f.target.Load())
	if err != nil {
		c.SetLinger(0)
		return
	}
	defer target.Close()
	var wg sync.WaitGroup
	copyHalf := func(dst, src *net.TCPConn) {
		io.Copy(dst, src)
		dst.CloseWrite()
		src.CloseRead()
	}
	t := target.(*net.TCPConn)
	wg.Go(func() { copyHalf(t, c) })
	wg.Go(func() { copyHalf(c, t) })
	wg.Wait()
}
