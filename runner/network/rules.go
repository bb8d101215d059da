package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table of a bridge, as `nft list table ip teu0` would show it:
//
//	chain published   { }  # per port: [ip daddr A] tcp dport H dnat to C:P
//	chain prerouting  { type nat hook prerouting priority dstnat;  fib daddr type local jump published }
//	chain output      { type nat hook output priority dstnat;      ip daddr != 127.0.0.0/8 fib daddr type local jump published }
//	chain postrouting { type nat hook postrouting priority srcnat;
//	                    ip saddr S oifname != "teu0" masquerade
//	                    ip saddr S oifname "teu0" ct status dnat masquerade }  # hairpin
//	chain forward     { type filter hook forward priority filter;
//	                    oifname "teu0" iifname "teu0" accept
//	                    oifname "teu0" ct state established,related accept
//	                    oifname "teu0" ct status dnat accept
//	                    oifname "teu0" drop }  # nobody routes into the bridge
//
// Connections to a loopback address are not rewritten: the keeper's listener takes them.
type rules struct {
	conn      *nftables.Conn
	table     *nftables.Table
	published *nftables.Chain
}

// applyRules replaces the table by one for the given endpoints, atomically. Unless ports
// changed it does so only if the table is missing, for instance after a firewall reload.
func (m *Manager) applyRules(br bridge, present map[string]Endpoint, portsChanged bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: m.name, Family: nftables.TableFamilyIPv4}
	if !portsChanged {
		if _, err := conn.ListTableOfFamily(m.name, table.Family); err == nil {
			return nil
		}
	}
	// Adding before deleting makes the deletion succeed whether or not the table was there.
	conn.AddTable(table)
	conn.DelTable(table)
	r := rules{conn: conn, table: conn.AddTable(table)}
	r.published = conn.AddChain(&nftables.Chain{Name: "published", Table: table})
	for _, ep := range sorted(present) {
		for _, p := range ep.Ports {
			if !p.HostIP.IsValid() || p.HostIP.Unmap().Is4() && !p.HostIP.IsLoopback() {
				r.add(r.published, publish(p, ep.Address.Addr())...)
			}
		}
	}
	r.nat()
	r.outbound(br)
	r.forward(br)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", m.name, err)
	}
	return nil
}

// dropRules removes the table, if it is there.
func (m *Manager) dropRules() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: m.name, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.DelTable(table)
	return conn.Flush()
}

func sorted(present map[string]Endpoint) []Endpoint {
	list := make([]Endpoint, 0, len(present))
	for _, ep := range present {
		list = append(list, ep)
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return strings.Compare(a.ID, b.ID) })
	return list
}

func (r *rules) add(chain *nftables.Chain, exprs ...expr.Any) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: exprs})
}

func (r *rules) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: typ, Hooknum: hook, Priority: priority})
}

func (r *rules) nat() {
	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: r.published.Name}
	pre := r.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	r.add(pre, append(toThisHost(), jump)...)
	out := r.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	r.add(out, join(network(destination, expr.CmpOpNeq, loopback), toThisHost(), []expr.Any{jump})...)
}

func (r *rules) outbound(br bridge) {
	post := r.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	inside := network(source, expr.CmpOpEq, br.Subnet.Masked())
	r.add(post, join(inside, device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, br.Name), []expr.Any{&expr.Masq{}})...)
	r.add(post, join(inside, device(expr.MetaKeyOIFNAME, expr.CmpOpEq, br.Name), wasPublished(), []expr.Any{&expr.Masq{}})...)
}

func (r *rules) forward(br bridge) {
	chain := r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	accept, drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	to := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, br.Name)
	r.add(chain, join(to, device(expr.MetaKeyIIFNAME, expr.CmpOpEq, br.Name), accept)...)
	r.add(chain, join(to, connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)...)
	r.add(chain, join(to, wasPublished(), accept)...)
	r.add(chain, join(to, drop)...)
}

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// publish rewrites what comes to the host port of p to the container at address to.
func publish(p Port, to netip.Addr) []expr.Any {
	protocol := byte(unix.IPPROTO_TCP)
	if p.Protocol == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	var match []expr.Any
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		match = network(destination, expr.CmpOpEq, netip.PrefixFrom(p.HostIP.Unmap(), 32))
	}
	return append(match,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		// Destination port: offset 2 of the TCP and UDP headers.
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.HostPort)},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(p.Container)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	)
}

// Offsets of the addresses in an IPv4 header (RFC 791, section 3.1).
const (
	source      = 12
	destination = 16
)

// network matches an address of the packet against prefix.
func network(offset uint32, op expr.CmpOp, prefix netip.Prefix) []expr.Any {
	mask := net.CIDRMask(prefix.Bits(), 32)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: prefix.Addr().AsSlice()},
	}
}

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
