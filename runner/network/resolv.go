package network

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/teu-dev/teu/runner/dns"
)

// Resolver is the content of a resolv.conf (resolv.conf(5)) as far as containers use it.
type Resolver struct {
	Nameservers, Search, Options []string
}

// Responder is where a keeper answers its container's questions.
const Responder = "127.0.0.11"

// publicNameservers serve a container whose host has only loopback resolvers, as docker does.
var publicNameservers = []string{"8.8.8.8", "8.8.4.4"}

// HostResolver reads how the host resolves names, for a container with a network of its
// own: a name server on the host's loopback cannot be reached from there, so it is left
// out, and when none remains the upstream servers of systemd-resolved or public ones
// take their place.
func HostResolver() (Resolver, error) {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		r, err := readResolver(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return Resolver{}, fmt.Errorf("reading the host's resolver: %w", err)
		}
		if r.Nameservers = reachable(r.Nameservers); len(r.Nameservers) > 0 {
			return r, nil
		}
	}
	return Resolver{Nameservers: publicNameservers}, nil
}

// Servers are who is asked for names that a container's networks do not know: those that
// are given, but for the responder itself, else the host's. One on the host's loopback is asked from the host.
func Servers(given []string) ([]dns.Server, error) {
	if len(given) == 0 {
		r, err := readResolver("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("reading the host's resolver: %w", err)
		}
		if given = r.Nameservers; len(given) == 0 {
			given = publicNameservers
		}
		var list []dns.Server
		for _, s := range given {
			a, err := netip.ParseAddr(s)
			// The host reaches its IPv6 and link-local servers, a container may not.
			list = append(list, dns.Server{Address: s, Host: err == nil && (a.IsLoopback() || a.Is6())})
		}
		return list, nil
	}
	var list []dns.Server
	for _, s := range given {
		if s != Responder { // it would ask itself
			list = append(list, dns.Server{Address: s})
		}
	}
	return list, nil
}

func reachable(servers []string) []string {
	var kept []string
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() && !a.Is6() {
			kept = append(kept, s)
		}
	}
	return kept
}

func readResolver(path string) (Resolver, error) {
	f, err := os.Open(path)
	if err != nil {
		return Resolver{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return ParseResolver(data), err
}

// ParseResolver reads the text of a resolv.conf; the last search line wins.
func ParseResolver(data []byte) Resolver {
	var r Resolver
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.Nameservers = append(r.Nameservers, fields[1])
		case "search", "domain":
			r.Search = fields[1:]
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// ByResponder is r where a keeper answers the questions.
func (r Resolver) ByResponder() Resolver {
	r.Nameservers = []string{Responder}
	if !slices.ContainsFunc(r.Options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		r.Options = append(slices.Clone(r.Options), "ndots:0") // names of containers have no dots
	}
	return r
}

// Bytes returns the text of the resolv.conf.
func (r Resolver) Bytes() []byte {
	var b bytes.Buffer
	for _, s := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.Bytes()
}
