package outlet

import (
	"context"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	maxDials    = 1024 // connections on their way; more have to ask again
	dialTimeout = 2 * time.Minute
	// maxConnections keeps what containers can have this process hold to 4 GB.
	maxConnections = 4096
	// A container that is gone says nothing. It is asked after keepIdle, and given up after
	// so many keepIntervals more.
	keepIdle     = 2 * time.Minute
	keepInterval = 15 * time.Second
	keepCount    = 4
)

// connection opens the connection that a container wants, and then lets it have it: one that
// is refused outside is refused inside.
func (s *server) connection(r *tcp.ForwarderRequest) {
	to, ok := s.target(r.ID())
	if !ok || !s.connections.take() {
		r.Complete(true)
		return
	}
	defer s.connections.give()
	dialer := net.Dialer{Timeout: dialTimeout}
	dialed, err := dialer.DialContext(s.ctx, "tcp", to.String())
	if err != nil {
		late, _ := err.(net.Error)
		r.Complete(late == nil || !late.Timeout())
		return
	}
	out := dialed.(*net.TCPConn)
	var queue waiter.Queue
	inside, refused := r.CreateEndpoint(&queue)
	r.Complete(refused != nil)
	if refused != nil { // the container has given up
		_ = out.SetLinger(0)
		out.Close()
		return
	}
	keepAlive(inside)
	s.pass(inside, &queue, out)
}

func keepAlive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepInterval)
	_, _ = ep.SetSockOpt(&idle), ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// pass lets the ends of a connection talk. Each side is closed when the other is; when one
// is reset, so is the other.
func (s *server) pass(inside tcpip.Endpoint, queue *waiter.Queue, out *net.TCPConn) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	reset := func() {
		_ = out.SetLinger(0)
		out.Close()
		inside.Abort()
	}
	stop := context.AfterFunc(ctx, reset)
	c := &conn{s: s, ctx: ctx, inside: inside, queue: queue, out: out, stream: true, passed: func() {}}
	var both sync.WaitGroup
	both.Go(func() {
		if c.leaving() != nil || out.CloseWrite() != nil {
			cancel()
		}
	})
	both.Go(func() {
		if c.arriving() != nil || inside.Shutdown(tcpip.ShutdownWrite) != nil {
			cancel()
		}
	})
	both.Wait()
	if stop() {
		out.Close()
		inside.Close()
	}
}
