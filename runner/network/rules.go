package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The table, as `nft list table inet teu0` would show it:
//
//	chain published   { }  # per port: [ip daddr A] tcp dport H dnat ip to C:P
//	chain opened      { }  # per port of a container that is reached by its own address: ip daddr C tcp dport P accept
//	chain prerouting  { type nat hook prerouting priority dstnat;  fib daddr type local jump published }
//	chain output      { type nat hook output priority dstnat;
//	                    ip daddr 127.0.0.0/8 return; ip6 daddr ::1 return; fib daddr type local jump published }
//	chain postrouting { type nat hook postrouting priority srcnat;  # per bridge B with subnet S
//	                    ip saddr S oifname != B masquerade
//	                    ip saddr S oifname B ct status dnat masquerade }  # hairpin
//	chain forward     { type filter hook forward priority filter;
//	                    ct state established,related accept
//	                    iifname I oifname != I drop        # per internal bridge I
//	                    iifname B oifname B accept         # per bridge B
//	                    oifname B ct status dnat accept
//	                    [iifname T] oifname B jump opened  # if B is routed, or T trusted
//	                    oifname B drop }                   # nobody routes into it, no other bridge either
//
// Connections to a loopback address are not rewritten: the keeper's listener takes them.
// The table is never deleted while it is in use: whoever sees it deleted knows that somebody
// else has flushed the rules.
type rules struct {
	conn      *nftables.Conn
	table     *nftables.Table
	published *nftables.Chain
	opened    *nftables.Chain
}

// applyRules replaces the content of the table by that for the present sandboxes,
// atomically. Unless something changed it does so only if the table is missing, for
// instance after a firewall reload.
func (m *Manager) applyRules(present map[string]Sandbox, changed bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := m.table()
	if !changed {
		if _, err := conn.ListTableOfFamily(table.Name, table.Family); err == nil {
			return nil
		}
	}
	bridges, err := m.bridges()
	if err != nil {
		return err
	}
	r := rules{conn: conn, table: conn.AddTable(table)}
	conn.FlushTable(table)
	r.published = conn.AddChain(&nftables.Chain{Name: "published", Table: table})
	r.opened = conn.AddChain(&nftables.Chain{Name: "opened", Table: table})
	for _, s := range sorted(present) {
		if ep := s.Main(); ep != nil {
			r.publishAll(s.Ports, *ep, bridges)
		}
	}
	r.nat()
	r.outbound(bridges)
	r.forward(bridges)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", m.name, err)
	}
	return nil
}

// Firewall returns the name of the table and of a file that who watches over it locks.
func (m *Manager) Firewall() (table, lock string) {
	return m.name, filepath.Join(m.dir(), "watch.lock")
}

// Dropping lists the chains of the host's firewall that drop forwarded packets unless one
// of their rules decides otherwise, by their policies or, as firewalld's, by their last rules: "chain FORWARD of table filter".
func Dropping() (names []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing the firewall's chains: %w", err)
	}
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Table.Family == nftables.TableFamilyBridge {
			continue
		}
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if !drops {
			list, err := conn.GetRules(c.Table, c)
			if err != nil {
				return nil, fmt.Errorf("listing the rules of the firewall's chain %s: %w", c.Name, err)
			}
			drops = len(list) > 0 && dropsAll(list[len(list)-1])
		}
		// One of IPv4 and one of IPv6 have the same name.
		if name := fmt.Sprintf("chain %s of table %s", c.Name, c.Table.Name); drops && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// dropsAll says whether a rule drops or rejects whatever comes to it.
func dropsAll(r *nftables.Rule) (drops bool) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			drops = true
		case *expr.Target: // of iptables
			drops = e.Name == "REJECT"
		case *expr.Verdict:
			drops = e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return drops
}

func (m *Manager) table() *nftables.Table {
	return &nftables.Table{Name: m.name, Family: nftables.TableFamilyINet}
}

// dropRules removes the table, if it is there.
func (m *Manager) dropRules() error { return dropTable(m.name) }

func (r *rules) add(chain *nftables.Chain, parts ...[]expr.Any) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

func (r *rules) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: typ, Hooknum: hook, Priority: priority})
}

func (r *rules) nat() {
	jump := verdict(expr.VerdictJump, r.published.Name)
	pre := r.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	r.add(pre, toThisHost(), jump)
	out := r.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	for _, loopback := range []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")} {
		r.add(out, address(destination, loopback), verdict(expr.VerdictReturn, ""))
	}
	r.add(out, toThisHost(), jump)
}

func (r *rules) outbound(bridges []bridge) {
	post := r.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	for _, br := range bridges {
		for _, f := range br.families() {
			inside := address(source, f.subnet.Masked())
			if !br.Internal && !br.Plain && f.mode != modeRouted {
				out := masquerade
				if f.source.IsValid() {
					out = rewrite(&expr.NAT{Type: expr.NATTypeSourceNAT}, f.source)
				}
				r.add(post, inside, device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, br.Name), out)
			}
			r.add(post, inside, device(expr.MetaKeyOIFNAME, expr.CmpOpEq, br.Name), wasPublished(), masquerade)
		}
	}
}

func (r *rules) forward(bridges []bridge) {
	chain := r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	accept, drop := verdict(expr.VerdictAccept, ""), verdict(expr.VerdictDrop, "")
	r.add(chain, connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	for _, br := range bridges {
		if br.Internal {
			r.add(chain, device(expr.MetaKeyIIFNAME, expr.CmpOpEq, br.Name), device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, br.Name), drop)
		}
	}
	for _, br := range bridges {
		to := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, br.Name)
		r.add(chain, device(expr.MetaKeyIIFNAME, expr.CmpOpEq, br.Name), to, accept)
		if !br.Internal {
			r.add(chain, to, wasPublished(), accept)
			r.inbound(chain, br)
		}
		r.add(chain, to, drop)
	}
}

// inbound lets in what is sent to the containers' own addresses.
func (r *rules) inbound(chain *nftables.Chain, br bridge) {
	to := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, br.Name)
	accept, jump := verdict(expr.VerdictAccept, ""), verdict(expr.VerdictJump, r.opened.Name)
	for _, trusted := range br.Trusted {
		r.add(chain, device(expr.MetaKeyIIFNAME, expr.CmpOpEq, trusted), to, jump)
	}
	for _, f := range br.families() {
		a := f.subnet.Addr()
		switch f.mode {
		case modeRouted:
			r.add(chain, to, version(a), icmp(a), accept)
			r.add(chain, to, version(a), jump)
		case modeUnprotected:
			r.add(chain, to, version(a), accept)
		}
	}
}

// publishAll rewrites what comes to the host's ports to the container at ep, or opens the container's.
func (r *rules) publishAll(list []Port, ep Endpoint, bridges []bridge) {
	i := slices.IndexFunc(bridges, func(br bridge) bool { return br.Name == ep.Bridge })
	if ep.Driver != "bridge" || i < 0 {
		return
	}
	runs := portRuns(list)
	for _, to := range []netip.Addr{ep.Address.Addr(), ep.Address6.Addr()} {
		if !to.IsValid() {
			continue
		}
		mode := bridges[i].mode(to)
		for _, run := range runs {
			if ip := run.first.HostIP.Unmap(); ip.IsValid() && ip.Is4() != to.Is4() {
				continue
			}
			if mode == modeRouted || len(bridges[i].Trusted) > 0 {
				r.add(r.opened, address(destination, netip.PrefixFrom(to, to.BitLen())), ports(run.first.Protocol, run.first.Container, run.inside()), verdict(expr.VerdictAccept, ""))
			}
			if mode != modeRouted && !run.first.HostIP.Unmap().IsLoopback() {
				r.add(r.published, publish(run, to))
			}
		}
	}
}

// portRun is a port, or several in a row that keep their numbers inside.
type portRun struct {
	first Port
	last  uint16
}

// inside is the last port of the container.
func (r portRun) inside() uint16 { return r.first.Container + r.last - r.first.HostPort }

// portRuns joins neighbours, so that a range of ports is one rule.
func portRuns(ports []Port) (runs []portRun) {
	list := slices.Clone(ports)
	slices.SortFunc(list, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	for _, p := range list {
		if n := len(runs); n > 0 && p.HostPort == p.Container {
			run := &runs[n-1]
			if run.first.Protocol == p.Protocol && run.first.HostIP == p.HostIP && run.first.HostPort == run.first.Container && run.last+1 == p.HostPort {
				run.last = p.HostPort
				continue
			}
		}
		runs = append(runs, portRun{p, p.HostPort})
	}
	return runs
}

// publish rewrites the destination of what comes to the host ports of a run.
func publish(run portRun, to netip.Addr) []expr.Any {
	p := run.first
	match := version(to)
	if !anyAddress(p.HostIP) {
		match = address(destination, netip.PrefixFrom(p.HostIP.Unmap(), p.HostIP.Unmap().BitLen()))
	}
	match = append(match, ports(p.Protocol, p.HostPort, run.last)...)
	nat := &expr.NAT{Type: expr.NATTypeDestNAT}
	if run.last == p.HostPort && p.HostPort != p.Container {
		nat.RegProtoMin = 2
		match = append(match, &expr.Immediate{Register: 2, Data: bigEndian(p.Container)})
	}
	return append(match, rewrite(nat, to)...)
}
