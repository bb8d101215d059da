package keeper

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tcpForward joins TCP connections.
type tcpForward struct {
	forward  Forward
	room     *room
	listener *net.TCPListener
	target   atomic.Pointer[string]
}

// tcpDescriptors is what a connection takes: either end, and a pipe in each direction, because io.Copy splices.
const tcpDescriptors = 6

func listenTCP(f Forward, r *room) (forwarder, error) {
	addr, err := net.ResolveTCPAddr(f.Network, f.Listen) // always an address, never a name
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP(f.Network, addr)
	if err != nil {
		return nil, err
	}
	r.shrink(2) // the listener, and a client who waits for room
	t := &tcpForward{forward: f, room: r, listener: l}
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
		f.room.take(tcpDescriptors) // clients that come meanwhile wait in the kernel
		go func() {
			defer f.room.give(tcpDescriptors)
			f.connect(c)
		}()
	}
}

// connect joins a client to the container. If that refuses, the client sees a reset, as
// it would without us.
func (f *tcpForward) connect(c *net.TCPConn) {
	defer c.Close()
	target, err := dialFrom(f.forward.From, "tcp", *f.target.Load())
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

// dialFrom connects from a network namespace, "" for ours.
func dialFrom(netns, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if netns == "" {
		return connectHere(ctx, network, address)
	}
	return dialWithin(ctx, func() error { return enterNetwork(netns) }, network, address)
}

func enterNetwork(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(descriptor(f), unix.CLONE_NEWNET)
}
