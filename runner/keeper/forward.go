package keeper

import (
	"io"
	"net"
	"sync"
	"time"
)

// forward is a listener on a loopback address, for connections that destination NAT
// does not reach.
type forward struct {
	listener *net.TCPListener
	target   string
}

func listenForward(f Forward) (*forward, error) {
	addr, err := net.ResolveTCPAddr("tcp", f.Listen) // always an address, never a name
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &forward{listener: l, target: f.Target}, nil
}

func (f *forward) run() {
	for {
		c, err := f.listener.AcceptTCP()
		if err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				continue
			}
			return
		}
		go f.connect(c)
	}
}

// connect joins a client to the container. If that refuses, the client sees a reset, as
// it would without us.
func (f *forward) connect(c *net.TCPConn) {
	defer c.Close()
	d := net.Dialer{Timeout: 10 * time.Second}
	target, err := d.Dial("tcp", f.target)
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
