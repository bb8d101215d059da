package outlet

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	maxFlows = 4096
	// flowIdle is how long a flow is silent before it is forgotten: as long as RFC 4787, REQ-5, wants at least.
	flowIdle = 2 * time.Minute
	// queryIdle is the same for a question to a name server, which is answered soon or not at all.
	queryIdle = 10 * time.Second
)

// flow is called with the first datagram of a flow; what follows goes to the endpoint.
func (s *server) flow(r *udp.ForwarderRequest) {
	to, ok := s.target(r.ID())
	if !ok || !s.flows.take() {
		return
	}
	var queue waiter.Queue
	inside, err := r.CreateEndpoint(&queue)
	if err != nil {
		s.flows.give()
		return
	}
	go func() {
		defer s.flows.give()
		s.exchange(inside, &queue, to)
	}()
}

// exchange passes on datagrams both ways until there are none for a while.
func (s *server) exchange(inside tcpip.Endpoint, queue *waiter.Queue, to netip.AddrPort) {
	defer inside.Close()
	out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return
	}
	defer out.Close()
	idle := flowIdle
	if to.Port() == 53 {
		idle = queryIdle
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer context.AfterFunc(ctx, func() { out.Close() })()
	timer := time.AfterFunc(idle, cancel)
	defer timer.Stop()
	c := &conn{s: s, ctx: ctx, inside: inside, queue: queue, out: out, passed: func() { timer.Reset(idle) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.leaving()
		cancel()
	}()
	_ = c.arriving() // a port where nobody listens says so; the next datagram begins a new flow
	cancel()
	<-done
}
