package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What rules are made of. Register 1 holds what is compared.

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// side is the address of a packet a rule looks at.
type side int

const (
	source side = iota
	destination
)

// version matches packets of the version of IP that a is of.
func version(a netip.Addr) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// address matches packets with an address in prefix. It stands at offset 12 or 16 of an
// IPv4 header (RFC 791, section 3.1), 8 or 24 of an IPv6 one (RFC 8200, section 3).
func address(s side, prefix netip.Prefix) []expr.Any {
	size := prefix.Addr().BitLen() / 8
	offset := 12
	if size == 16 {
		offset = 8
	}
	if s == destination {
		offset += size
	}
	return append(version(prefix.Addr()),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(offset), Len: uint32(size)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: net.CIDRMask(prefix.Bits(), size*8), Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
	)
}

// ports matches packets of a protocol to the ports from first to last. The destination
// port is at offset 2 of the headers of TCP, UDP and SCTP.
func ports(protocol string, first, last uint16) []expr.Any {
	number := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[protocol]
	match := append(carries(number), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	if first == last {
		return append(match, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bigEndian(first)})
	}
	return append(match, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: bigEndian(first), ToData: bigEndian(last)})
}

// carries matches packets of a protocol above IP.
func carries(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}}
}

// icmp matches ICMP of the version of IP that a is of.
func icmp(a netip.Addr) []expr.Any {
	if a.Is6() {
		return carries(unix.IPPROTO_ICMPV6)
	}
	return carries(unix.IPPROTO_ICMP)
}

// rewrite changes an address of a packet to a.
func rewrite(nat *expr.NAT, a netip.Addr) []expr.Any {
	nat.RegAddrMin, nat.Family = 1, unix.NFPROTO_IPV4
	if a.Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, nat}
}

func bigEndian(port uint16) []byte { return binaryutil.BigEndian.PutUint16(port) }

// device matches the name of the interface a packet came in by or goes out by.
func device(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := append([]byte(name), bytes.Repeat([]byte{0}, unix.IFNAMSIZ-len(name))...)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// toThisHost matches packets to an address of the host itself.
func toThisHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// connection matches packets of connections that have one of bits set in key.
func connection(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// wasPublished matches connections whose destination was rewritten.
func wasPublished() []expr.Any {
	const dstNAT = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return connection(expr.CtKeySTATUS, dstNAT)
}

// redirectDNS sends what the container asks 127.0.0.11 to the keeper's port there. It is
// called in the container's namespace. The keeper does not answer on port 53 itself,
// because a container may have a name server of its own on every address.
func redirectDNS(port uint16) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Name: "teu-dns", Family: nftables.TableFamilyIPv4})
	conn.FlushTable(table)
	out := conn.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	to := netip.AddrFrom4([4]byte{127, 0, 0, 11})
	for _, protocol := range []string{"udp", "tcp"} {
		match := append(address(destination, netip.PrefixFrom(to, 32)), ports(protocol, 53, 53)...)
		match = append(match,
			&expr.Immediate{Register: 1, Data: to.AsSlice()},
			&expr.Immediate{Register: 2, Data: bigEndian(port)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2})
		conn.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: match})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("redirecting the container's name lookups: %w", err)
	}
	return nil
}
