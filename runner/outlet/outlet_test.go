package outlet

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func TestTarget(t *testing.T) {
	s := &server{own: []netip.Prefix{netip.MustParsePrefix("192.0.0.1/29"), netip.MustParsePrefix("fd00:1::1/64")}}
	for address, want := range map[string]bool{
		"10.0.0.1": true, "8.8.8.8": true, "169.254.169.254": true, "2001:db8::1": true, "fd00:2::1": true, "192.0.0.8": true,
		"127.0.0.1": false, "127.8.8.8": false, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false,
		"192.0.0.1": false, "192.0.0.7": false, "fd00:1::5": false,
		"::1": false, "::": false, "ff02::1": false, "fe80::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": true,
	} {
		a := netip.MustParseAddr(address)
		to, ok := s.target(stack.TransportEndpointID{LocalAddress: tcpip.AddrFromSlice(a.AsSlice()), LocalPort: 80})
		if ok != want || ok && to != netip.AddrPortFrom(a.Unmap(), 80) {
			t.Errorf("%s: got %v, %v, want %v", address, to, ok, want)
		}
	}
}

// FuzzPackets gives the stack packets for hosts none of which may be reached: nothing leaves.
func FuzzPackets(f *testing.F) {
	ping := []byte{0x45, 0, 0, 30, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 0, 2, 10, 9, 0, 1, 8, 0, 0, 0, 0, 1, 0, 1, 'h', 'i'}
	header.IPv4(ping).SetChecksum(^header.IPv4(ping).CalculateChecksum())
	header.ICMPv4(ping[20:]).SetChecksum(header.ICMPv4Checksum(ping[20:28], 0))
	f.Add(ping)
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 8, 58, 64}, make([]byte, 40)...))
	f.Add(append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 0, 2, 10, 9, 0, 1, 1, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2}, make([]byte, 6)...))
	f.Add(append([]byte{0x45, 0, 0, 28, 0, 0, 0x20, 0, 64, 17, 0, 0, 192, 0, 0, 2, 10, 9, 0, 1, 1, 1, 0, 53}, make([]byte, 4)...))
	link := channel.New(16, 1500, hardware)
	s, err := newServer(f.Context(), link, []netip.Prefix{netip.MustParsePrefix("192.0.0.1/29")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.stack.Destroy)
	s.own = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, protocol := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber, header.ARPProtocolNumber} {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
			link.InjectInbound(protocol, pkt)
			pkt.DecRef()
		}
		link.Drain()
	})
}
