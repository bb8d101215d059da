// Package outlet connects the network of an ordinary user's containers to other hosts.
//
// Such a user may not change the host's network. What the containers send arrives here as
// Ethernet frames, at a TCP/IP stack that takes itself for every host there is: it accepts
// connections and flows, opens the same ones as the user, and passes on what comes. No
// device is needed (/dev/net/tun is closed to users on many hosts), nor another program.
//
// Neither the loopback addresses of the host nor multicast and broadcast are reached.
package outlet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Options say where the stack stands.
type Options struct {
	MTU       int
	Addresses []netip.Prefix // its own: the gateways of the network
	Ready     func() error   // is called when frames are passed on
}

const (
	nic = 1
	// hardware is locally administered, as no other interface of the link has it.
	hardware = tcpip.LinkAddress("\x02teu\x00\x01")
	// maxSegment is the largest packet that passes the link in one piece; packet(7), PACKET_VNET_HDR.
	maxSegment = 65535 - header.IPv6MinimumSize
	// tcpBuffer is the most that a connection holds in either direction, in bytes. The way to the
	// containers is short; for the way outside the kernel's sockets have buffers of their own.
	tcpBuffer = 512 << 10
)

// server passes on what the stack accepts.
type server struct {
	ctx   context.Context // ends what is passed on
	stack *stack.Stack
	own   []netip.Prefix

	connections, flows, echoes limit     // that there are
	buffers                    sync.Pool // *[]byte of bufferSize
}

// Serve passes on the frames of a socket of packet(7) with PACKET_VNET_HDR until ctx ends, or the
// interface of the socket is gone, which is an error. The socket stays open.
func Serve(ctx context.Context, packets *os.File, o Options) error {
	gone := make(chan tcpip.Error, 1)
	link, err := fdbased.New(&fdbased.Options{
		FDs: []int{int(packets.Fd())}, MTU: uint32(o.MTU), EthernetHeader: true, Address: hardware,
		PacketDispatchMode: fdbased.RecvMMsg, GSOMaxSize: maxSegment,
		RXChecksumOffload: true, // it comes from this host's memory
		ClosedFunc:        func(err tcpip.Error) { gone <- err },
	})
	if err != nil {
		return fmt.Errorf("opening the link: %w", err)
	}
	defer runtime.KeepAlive(packets) // the link knows its descriptor only
	s, err := newServer(ctx, link, o.Addresses)
	if err != nil {
		return err
	}
	defer s.stack.Destroy()
	if err := o.Ready(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-gone:
		return failure("receiving frames", err)
	}
}

// newServer passes on what comes by a link, until ctx ends or the stack is destroyed.
func newServer(ctx context.Context, link stack.LinkEndpoint, own []netip.Prefix) (*server, error) {
	s := &server{ctx: ctx, own: own, connections: newLimit(maxConnections), flows: newLimit(maxFlows), echoes: newLimit(maxEchoes)}
	s.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	s.stack.SetICMPLimit(0) // of itself it would answer pings for every host
	s.stack.SetICMPBurst(0)
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s.stack, tcpBuffer, maxDials, s.connection).HandlePacket)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s.stack, s.flow).HandlePacket)
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.echo4)
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.echo6)
	if err := s.tune(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	if err := s.plug(link); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	return s, nil
}

// plug gives the stack its only interface, at which it is every host.
func (s *server) plug(link stack.LinkEndpoint) error {
	if err := s.stack.CreateNIC(nic, link); err != nil {
		return failure("making the interface", err)
	}
	for _, p := range s.own {
		a := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits(),
		}}
		if p.Addr().Is6() {
			a.Protocol = ipv6.ProtocolNumber
		}
		if err := s.stack.AddProtocolAddress(nic, a, stack.AddressProperties{}); err != nil {
			return failure("setting the address "+p.String(), err)
		}
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	if err := s.stack.SetPromiscuousMode(nic, true); err != nil {
		return failure("accepting all addresses", err)
	}
	if err := s.stack.SetSpoofing(nic, true); err != nil {
		return failure("answering from all addresses", err)
	}
	return nil
}

// tune sets what is not as the kernel has it.
func (s *server) tune() error {
	sack, moderate, cubic := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic, &receive, &send} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return failure("setting up TCP", err)
		}
	}
	return nil
}

func failure(doing string, err tcpip.Error) error { return fmt.Errorf("%s: %s", doing, err) }

// target is who a packet is for; ok says whether it may be reached from here.
func (s *server) target(id stack.TransportEndpointID) (a netip.AddrPort, ok bool) {
	addr, ok := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	addr = addr.Unmap()
	if !ok || !addr.IsGlobalUnicast() && !(addr.Is4() && addr.IsLinkLocalUnicast()) {
		return a, false
	}
	for _, own := range s.own {
		if own.Contains(addr) {
			return a, false
		}
	}
	return netip.AddrPortFrom(addr, id.LocalPort), true
}

// limit counts what there may be so many of.
type limit chan struct{}

func newLimit(n int) limit { return make(limit, n) }

func (l limit) take() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l limit) give() { <-l }
