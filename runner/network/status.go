package network

import (
	"math"
	"math/big"
	"net/netip"
)

// SubnetStatus counts addresses of a subnet, up to 2^64-1.
type SubnetStatus struct {
	IPsInUse            uint64 // or reserved
	DynamicIPsAvailable uint64 // of those that containers get when they name none
}

// Status counts the addresses of a network's subnets; members are those of its containers.
func (n Network) Status(members []netip.Addr) map[netip.Prefix]SubnetStatus {
	all := map[netip.Prefix]SubnetStatus{}
	for _, c := range n.IPAM.Config {
		if !c.Subnet.IsValid() {
			continue
		}
		used := map[netip.Addr]bool{}
		add := func(a netip.Addr) {
			if a.IsValid() && c.Subnet.Contains(a) {
				used[a] = true
			}
		}
		if first := c.Subnet.Masked().Addr(); c.Subnet.Bits() < first.BitLen()-1 {
			add(first) // the network's own, or the routers' of IPv6
			if first.Is4() {
				add(lastOf(c.Subnet))
			}
		}
		add(c.Gateway)
		for _, a := range c.AuxiliaryAddresses {
			add(a)
		}
		for _, a := range members {
			add(a)
		}
		dynamic := c.Subnet
		if c.IPRange.IsValid() {
			dynamic = c.IPRange
		}
		taken := int64(0)
		for a := range used {
			if dynamic.Contains(a) {
				taken++
			}
		}
		free := new(big.Int).Lsh(big.NewInt(1), uint(dynamic.Addr().BitLen()-dynamic.Bits()))
		free.Sub(free, big.NewInt(taken))
		s := SubnetStatus{IPsInUse: uint64(len(used)), DynamicIPsAvailable: math.MaxUint64}
		if free.IsUint64() {
			s.DynamicIPsAvailable = free.Uint64()
		}
		all[c.Subnet] = s
	}
	return all
}

// lastOf is the last address of a subnet of IPv4.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
