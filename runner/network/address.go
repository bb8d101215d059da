package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
)

// pool is where subnets for bridges are taken from, a /24 each. It is inside the
// private range 172.16.0.0/12 (RFC 1918), above docker's first networks.
var pool = netip.MustParsePrefix("172.30.0.0/15")

// freeSubnet returns the first /24 of the pool that overlaps none of used, with the
// gateway's address in it.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for addr := pool.Addr(); pool.Contains(addr); addr = nextSubnet(addr) {
		candidate := netip.PrefixFrom(addr, 24)
		if !overlapsAny(candidate, used) {
			return netip.PrefixFrom(addr.Next(), 24), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every /24 of %s overlaps a route of this host: %w", pool, errdefs.ErrResourceExhausted)
}

func nextSubnet(a netip.Addr) netip.Addr {
	b := a.As4()
	b[2]++
	if b[2] == 0 {
		b[1]++
	}
	return netip.AddrFrom4(b)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// freeAddress returns the lowest address of subnet that neither the gateway nor an
// endpoint has, and that is not the broadcast address.
func freeAddress(subnet netip.Prefix, present map[string]Endpoint) (netip.Prefix, error) {
	taken := make(map[netip.Addr]bool, len(present)+1)
	taken[subnet.Addr()] = true
	for _, ep := range present {
		taken[ep.Address.Addr()] = true
	}
	first := subnet.Masked().Addr().Next()
	for a := first; subnet.Contains(a.Next()); a = a.Next() {
		if !taken[a] {
			return netip.PrefixFrom(a, subnet.Bits()), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free address in %s: %w", subnet.Masked(), errdefs.ErrResourceExhausted)
}

// macOf derives a locally administered hardware address from an IPv4 address, so an
// address keeps its neighbour entry when a container is replaced.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// choosePorts fills in the host ports that were left open and refuses those that are
// taken, by another container or by a socket of the host.
func choosePorts(want []Port, present map[string]Endpoint) ([]Port, error) {
	var ports []Port
	for _, p := range want {
		if p.HostPort != 0 {
			if holder := publisher(p, present); holder != "" {
				return nil, fmt.Errorf("port is already allocated: %s by container %.12s: %w", hostAddress(p), holder, errdefs.ErrConflict)
			}
		}
		port, err := probePort(p)
		if err != nil {
			return nil, err
		}
		p.HostPort = port
		ports = append(ports, p)
	}
	return ports, nil
}

// publisher returns the endpoint that publishes the host port of p already, or "".
func publisher(p Port, present map[string]Endpoint) string {
	for id, ep := range present {
		for _, q := range ep.Ports {
			sameAddress := !p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP
			if sameAddress && p.Protocol == q.Protocol && p.HostPort == q.HostPort {
				return id
			}
		}
	}
	return ""
}

// probePort binds the host port of p for a moment, and so finds a free one or learns
// that it is in use. The keeper binds it for good a moment later.
func probePort(p Port) (uint16, error) {
	if p.Protocol == "udp" {
		c, err := net.ListenPacket("udp", hostAddress(p))
		if err != nil {
			return 0, portError(p, err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	l, err := net.Listen("tcp", hostAddress(p))
	if err != nil {
		return 0, portError(p, err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

func portError(p Port, err error) error {
	return fmt.Errorf("publishing port %d/%s: %w: %w", p.Container, p.Protocol, errdefs.ErrConflict, err)
}

// hostAddress is what a listener for p binds: docker's default is every IPv4 and IPv6 address.
func hostAddress(p Port) string {
	if !p.HostIP.IsValid() {
		return fmt.Sprintf(":%d", p.HostPort)
	}
	return netip.AddrPortFrom(p.HostIP, p.HostPort).String()
}

// HostAddress returns the address a userspace listener for p binds.
func (p Port) HostAddress() string { return hostAddress(p) }
