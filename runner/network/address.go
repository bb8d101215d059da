package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
)

// pools are where subnets are taken from, a /24 each: private ranges (RFC 1918) above
// docker's first networks.
func pools() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("172.30.0.0/15"), netip.MustParsePrefix("192.168.128.0/17"), netip.MustParsePrefix("10.200.0.0/13"),
	}
}

// freeSubnet returns the first /24 of the pools that overlaps none of used, with the
// gateway's address in it.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for _, pool := range pools() {
		for addr := pool.Addr(); pool.Contains(addr); addr = nextSubnet(addr) {
			if candidate := netip.PrefixFrom(addr, 24); !overlapsAny(candidate, used) {
				return netip.PrefixFrom(addr.Next(), 24), nil
			}
		}
	}
	return netip.Prefix{}, worded(errdefs.ErrResourceExhausted, "all predefined address pools have been fully subnetted: every /24 overlaps a network or a route of this host")
}

func nextSubnet(a netip.Addr) netip.Addr {
	b := a.As4()
	b[2]++
	if b[2] == 0 {
		b[1]++
	}
	return netip.AddrFrom4(b)
}

// freeSubnet6 returns a /64 below the host's own unique local prefix (RFC 4193).
func freeSubnet6(prefix netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	b := prefix.Addr().As16()
	for n := range 1 << 16 {
		b[6], b[7] = byte(n>>8), byte(n)
		candidate := netip.PrefixFrom(netip.AddrFrom16(b), 64)
		if !overlapsAny(candidate, used) {
			return netip.PrefixFrom(candidate.Addr().Next(), 64), nil
		}
	}
	return netip.Prefix{}, worded(errdefs.ErrResourceExhausted, "all predefined address pools have been fully subnetted: no /64 of %s is free", prefix)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// chooseAddresses gives an endpoint an address of each family its network has.
func chooseAddresses(ep *Endpoint, n Network, br bridge, a Attachment, present map[string]Sandbox) error {
	taken := map[netip.Addr]bool{}
	for _, s := range present {
		if other := s.In(n.ID); other != nil {
			taken[other.Address.Addr()], taken[other.Address6.Addr()] = true, true
		}
	}
	configs := n.IPAM.Config
	if len(configs) == 0 && br.Subnet.IsValid() { // the default bridge
		configs = []IPAMConfig{{Subnet: br.Subnet.Masked(), Gateway: br.Subnet.Addr()}}
	}
	for _, want := range []netip.Addr{a.IPv4, a.IPv6} {
		if want.IsValid() && !anySubnet(configs, want) {
			return worded(errdefs.ErrInvalidArgument, "invalid endpoint settings:\nno configured subnet contains IP address %s", want)
		}
	}
	for _, c := range configs {
		if !c.Subnet.IsValid() {
			continue
		}
		want, address, gateway := a.IPv4, &ep.Address, &ep.Gateway
		if c.Subnet.Addr().Is6() {
			want, address, gateway = a.IPv6, &ep.Address6, &ep.Gateway6
		}
		if address.IsValid() || want.IsValid() && !c.Subnet.Contains(want) {
			continue
		}
		got, err := c.take(want, taken)
		if err != nil {
			return err
		}
		*address = got
		if !n.Internal {
			*gateway = c.Gateway
		}
	}
	return nil
}

func anySubnet(configs []IPAMConfig, a netip.Addr) bool {
	for _, c := range configs {
		if c.Subnet.Contains(a) {
			return true
		}
	}
	return false
}

// take returns want, or the lowest free address, with the prefix length of the subnet.
func (c IPAMConfig) take(want netip.Addr, taken map[netip.Addr]bool) (netip.Prefix, error) {
	reserved := func(a netip.Addr) bool {
		if taken[a] || a == c.Gateway {
			return true
		}
		for _, aux := range c.AuxiliaryAddresses {
			if a == aux {
				return true
			}
		}
		return false
	}
	if want.IsValid() {
		if reserved(want) || c.ownAddress(want) || !c.usable(want) {
			return netip.Prefix{}, worded(errdefs.ErrPermissionDenied, "Address already in use")
		}
		return netip.PrefixFrom(want, c.Subnet.Bits()), nil
	}
	within := c.Subnet
	if c.IPRange.IsValid() {
		within = c.IPRange
	}
	first := within.Masked().Addr()
	if c.ownAddress(first) {
		first = first.Next()
	}
	for a := first; within.Contains(a) && c.usable(a); a = a.Next() {
		if !reserved(a) {
			return netip.PrefixFrom(a, c.Subnet.Bits()), nil
		}
	}
	return netip.Prefix{}, worded(errdefs.ErrResourceExhausted, "no available IPv%d addresses on this network's address pools: %s", 4+2*b2i(within.Addr().Is6()), within.Masked())
}

// ownAddress says that a is the network's own, which a link of two hosts does not have (RFC 3021, 6164).
func (c IPAMConfig) ownAddress(a netip.Addr) bool {
	return a == c.Subnet.Masked().Addr() && c.Subnet.Bits() < a.BitLen()-1
}

// usable says that a is not the subnet's broadcast address.
func (c IPAMConfig) usable(a netip.Addr) bool {
	return a.Is6() || c.Subnet.Bits() >= 31 || c.Subnet.Contains(a.Next())
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// macFor derives a locally administered hardware address from the endpoint's address, so
// an address keeps its neighbour entry when a container is replaced.
func macFor(ep Endpoint) string {
	if ep.Address.IsValid() {
		return macOf(ep.Address.Addr()).String()
	}
	if ep.Address6.IsValid() {
		return macOf(ep.Address6.Addr()).String()
	}
	return ""
}

func macOf(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil, worded(errdefs.ErrInvalidArgument, "invalid MAC address: %s", text)
	}
	return mac, nil
}

// linkLocalPrefix is the subnet of a link-local address (RFC 3927, RFC 4291).
func linkLocalPrefix(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(a, 64)
	}
	return netip.PrefixFrom(a, 16)
}

// anywhere is the destination of a default route without a gateway.
func anywhere() *net.IPNet { return &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)} }

const flagUp = net.FlagUp

// wordedError has docker's own words, which scripts look for, and a class.
type wordedError struct {
	text  string
	class error
}

func worded(class error, format string, args ...any) error {
	return &wordedError{fmt.Sprintf(format, args...), class}
}

func (e *wordedError) Error() string { return e.text }
func (e *wordedError) Unwrap() error { return e.class }
