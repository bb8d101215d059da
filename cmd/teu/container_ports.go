package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner/network"
)

// shownPort is a port in a listing; without an address it is exposed only.
type shownPort struct {
	address         string
	inside, outside uint16
	protocol        string
}

// portsText is docker's (docker/cli, formatter.DisplayablePorts): neighbours that keep their
// numbers are one range, "0.0.0.0:8000-8002->8000-8002/tcp"; those that do not come last.
func portsText(published, exposed []network.Port) string {
	var list []string
	var groups []*portSpan
	var mapped []string
	for _, p := range shownPorts(published, exposed) {
		if p.address != "" && p.outside != p.inside {
			mapped = append(mapped, fmt.Sprintf("%s:%d->%d/%s", p.address, p.outside, p.inside, p.protocol))
			continue
		}
		i := slices.IndexFunc(groups, func(g *portSpan) bool { return g.address == p.address && g.protocol == p.protocol })
		switch {
		case i < 0:
			groups = append(groups, &portSpan{p.address, p.protocol, p.inside, p.inside})
		case groups[i].last+1 == p.inside:
			groups[i].last++
		default:
			list = append(list, groups[i].String())
			groups[i].first, groups[i].last = p.inside, p.inside
		}
	}
	for _, g := range groups {
		list = append(list, g.String())
	}
	return strings.Join(append(list, mapped...), ", ")
}

// portSpan are ports in a row of one address and protocol.
type portSpan struct {
	address, protocol string
	first, last       uint16
}

func (r *portSpan) String() string {
	text := strconv.Itoa(int(r.first))
	if r.last != r.first {
		text += "-" + strconv.Itoa(int(r.last))
	}
	if r.address != "" {
		text = r.address + ":" + text + "->" + text
	}
	return text + "/" + r.protocol
}

// shownPorts are all ports in docker's order; what is published is not shown as exposed too.
func shownPorts(published, exposed []network.Port) (list []shownPort) {
	for _, p := range published {
		for _, address := range hostAddresses(p) {
			list = append(list, shownPort{address, p.Container, p.HostPort, p.Protocol})
		}
	}
	for _, p := range exposed {
		if !slices.ContainsFunc(published, func(q network.Port) bool { return q.Container == p.Container && q.Protocol == p.Protocol }) {
			list = append(list, shownPort{"", p.Container, 0, p.Protocol})
		}
	}
	slices.SortFunc(list, func(a, b shownPort) int {
		return cmp.Or(cmp.Compare(a.inside, b.inside), cmp.Compare(a.address, b.address),
			cmp.Compare(a.outside, b.outside), cmp.Compare(a.protocol, b.protocol))
	})
	return list
}

// hostAddresses are where a port is published, as docker writes it.
func hostAddresses(p network.Port) []string {
	switch {
	case !p.HostIP.IsValid():
		return []string{"0.0.0.0", "[::]"}
	case p.HostIP.Is6():
		return []string{"[" + p.HostIP.String() + "]"}
	}
	return []string{p.HostIP.String()}
}
