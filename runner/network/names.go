package network

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
)

// writeNames writes the zones of the networks that s is or was in, and what its own
// container sees of them. Readers are the keepers, which look at every question.
func (m *Manager) writeNames(s Sandbox, present map[string]Sandbox) error {
	var errs []error
	for _, ep := range s.Endpoints {
		if m.hasNames(ep.Network) {
			errs = append(errs, m.writeZone(ep, present))
		}
	}
	if now, ok := present[s.ID]; ok && !now.Idle {
		errs = append(errs, m.writeDNS(now))
	}
	return errors.Join(errs...)
}

// writeZone writes who is in a network; the zone of one that is empty goes.
func (m *Manager) writeZone(of Endpoint, present map[string]Sandbox) error {
	zone := dns.Zone{Network: of.NetworkName}
	for _, s := range sorted(present) {
		ep := s.In(of.Network)
		if ep == nil || s.Idle {
			continue
		}
		member := dns.Member{Names: ep.Names}
		for _, p := range []netip.Prefix{ep.Address, ep.Address6} {
			if p.IsValid() {
				member.Addresses = append(member.Addresses, p.Addr())
			}
		}
		zone.Members = append(zone.Members, member)
	}
	path := m.zone(of.Network)
	if len(zone.Members) == 0 {
		return os.RemoveAll(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	return statefile.Write(path, zone, statefile.WriteOptions{})
}

// writeDNS writes what a container sees: the zones of its networks and its links.
func (m *Manager) writeDNS(s Sandbox) error {
	if s.DNSPort == 0 {
		return nil
	}
	c := dns.Config{NetNS: s.NetNS, Port: s.DNSPort, Servers: s.Servers}
	for _, ep := range s.Endpoints {
		if !m.hasNames(ep.Network) {
			continue
		}
		c.Zones = append(c.Zones, m.zone(ep.Network))
		for _, link := range ep.Links {
			if name, alias, ok := strings.Cut(link, ":"); ok && alias != "" {
				c.Links = append(c.Links, dns.Link{Network: ep.NetworkName, Alias: alias, Name: name})
			}
		}
	}
	c.Closed = s.Main() == nil
	if err := os.MkdirAll(filepath.Dir(m.DNSFile(s.ID)), 0o711); err != nil {
		return err
	}
	return statefile.Write(m.DNSFile(s.ID), c, statefile.WriteOptions{})
}
