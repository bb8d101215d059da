package keeper

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	udpIdle    = 90 * time.Second // without a packet until a client is forgotten
	udpClients = 1024             // known at once; more are not served until some are forgotten
)

// udpForward passes datagrams on, by a socket of its own for each client, so that answers
// find their way back.
type udpForward struct {
	forward Forward
	room    *room
	socket  *net.UDPConn
	target  atomic.Pointer[string]

	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn
}

func listenUDP(f Forward, r *room) (forwarder, error) {
	addr, err := net.ResolveUDPAddr(f.Network, f.Listen)
	if err != nil {
		return nil, err
	}
	c, err := net.ListenUDP(f.Network, addr)
	if err != nil {
		return nil, err
	}
	r.shrink(1)
	u := &udpForward{forward: f, room: r, socket: c, clients: map[netip.AddrPort]*net.UDPConn{}}
	u.target.Store(&f.Target)
	return u, nil
}

func (f *udpForward) listens() Forward { return f.forward }

func (f *udpForward) retarget(address string) {
	f.target.Store(&address)
	f.forgetAll()
}

func (f *udpForward) close() {
	f.socket.Close()
	f.forgetAll()
}

func (f *udpForward) forgetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		c.Close()
	}
	clear(f.clients) // at once: what comes next is not for a socket that is closed
}

func (f *udpForward) run() {
	buffer := make([]byte, 0xffff)
	for {
		n, from, err := f.socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of a datagram before
		}
		if c := f.client(from); c != nil {
			c.Write(buffer[:n])
		}
	}
}

// client returns the socket of a client, nil if there cannot be one.
func (f *udpForward) client(from netip.AddrPort) *net.UDPConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[from]
	if c == nil {
		if len(f.clients) >= udpClients || !f.room.try(1) {
			return nil
		}
		to, err := dialFrom(f.forward.From, "udp", *f.target.Load())
		if err != nil {
			f.room.give(1)
			return nil
		}
		c = to.(*net.UDPConn)
		f.clients[from] = c
		go f.answer(c, from)
	}
	c.SetReadDeadline(time.Now().Add(udpIdle))
	return c
}

// answer passes on what the container says to a client, until both have been silent.
func (f *udpForward) answer(c *net.UDPConn, to netip.AddrPort) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.clients[to] == c {
			delete(f.clients, to)
		}
		c.Close()
		f.room.give(1)
	}()
	buffer := make([]byte, 0xffff)
	for {
		n, err := c.Read(buffer)
		var timeout net.Error
		if errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout() {
			return
		}
		if err != nil {
			continue // nobody listens in the container yet
		}
		f.socket.WriteToUDPAddrPort(buffer[:n], to)
	}
}
