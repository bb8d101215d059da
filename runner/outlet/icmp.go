package outlet

import (
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
)

const (
	maxEchoes   = 256
	echoTimeout = 10 * time.Second
	echoHeader  = 8 // type, code, checksum, identifier and sequence; RFC 792 and RFC 4443, 4.1
)

// echo4 asks outside when a container pings; the stack would say yes for every host. It
// works where the kernel lets the user ping: net.ipv4.ping_group_range, icmp(7).
func (s *server) echo4(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv4(pkt.TransportHeader().Slice())
	if len(h) >= echoHeader && h.Type() == header.ICMPv4Echo && h.Code() == header.ICMPv4UnusedCode {
		s.echo(id, h, pkt, echoKind{ipv4.ProtocolNumber, unix.AF_INET, unix.IPPROTO_ICMP, byte(header.ICMPv4EchoReply)})
	}
	return true
}

// echo6 is the same for ICMPv6.
func (s *server) echo6(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv6(pkt.TransportHeader().Slice())
	if len(h) >= echoHeader && h.Type() == header.ICMPv6EchoRequest && h.Code() == header.ICMPv6UnusedCode {
		s.echo(id, h, pkt, echoKind{ipv6.ProtocolNumber, unix.AF_INET6, unix.IPPROTO_ICMPV6, byte(header.ICMPv6EchoReply)})
	}
	return true
}

// echoKind is what tells the two apart.
type echoKind struct {
	network          tcpip.NetworkProtocolNumber
	family, protocol int // socket(2)
	reply            byte
}

func (s *server) echo(id stack.TransportEndpointID, h []byte, pkt *stack.PacketBuffer, k echoKind) {
	to, ok := s.target(id)
	if !ok || !s.echoes.take() {
		return
	}
	request := append(append([]byte(nil), h...), pkt.Data().AsRange().ToSlice()...)
	go func() {
		defer s.echoes.give()
		answer, err := ping(to.Addr(), request, k)
		if err != nil {
			return // nobody answers
		}
		copy(answer[4:8], request[4:8]) // the kernel puts an identifier of its own in
		_ = s.reply(id, answer, k)
	}()
}

// ping sends an echo request and returns the answer.
func ping(to netip.Addr, request []byte, k echoKind) ([]byte, error) {
	fd, err := unix.Socket(k.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, k.protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		address = &unix.SockaddrInet4{Addr: to.As4()}
	}
	if err := unix.Connect(fd, address); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	if err := f.SetDeadline(time.Now().Add(echoTimeout)); err != nil {
		return nil, err
	}
	if _, err := f.Write(request); err != nil {
		return nil, err
	}
	answer := make([]byte, len(request)+echoHeader)
	for {
		n, err := f.Read(answer)
		if err != nil {
			return nil, err
		}
		if n >= echoHeader && answer[0] == k.reply {
			return answer[:n], nil
		}
	}
}

// reply sends an echo reply to a container.
func (s *server) reply(id stack.TransportEndpointID, answer []byte, k echoKind) tcpip.Error {
	route, err := s.stack.FindRoute(nic, id.LocalAddress, id.RemoteAddress, k.network, false)
	if err != nil {
		return err
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + echoHeader, Payload: buffer.MakeWithData(answer[echoHeader:]),
	})
	defer pkt.DecRef()
	h := pkt.TransportHeader().Push(echoHeader)
	copy(h, answer)
	protocol := icmp.ProtocolNumber4
	sum := checksum.Checksum(answer[echoHeader:], 0)
	if k.network == ipv4.ProtocolNumber {
		header.ICMPv4(h).SetChecksum(0)
		header.ICMPv4(h).SetChecksum(header.ICMPv4Checksum(h, sum))
	} else {
		protocol = icmp.ProtocolNumber6
		header.ICMPv6(h).SetChecksum(0)
		header.ICMPv6(h).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: h, Src: id.LocalAddress, Dst: id.RemoteAddress, PayloadCsum: sum, PayloadLen: len(answer) - echoHeader,
		}))
	}
	pkt.TransportProtocolNumber = protocol
	return route.WritePacket(stack.NetworkHeaderParams{Protocol: protocol, TTL: route.DefaultTTL()}, pkt)
}
