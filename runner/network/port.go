package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// choosePorts fills in the host ports that were left open and refuses those that are
// taken, by another container or by a socket of the host. Where main is reached by its own
// address there is no port of the host: it becomes 0.
func choosePorts(want []Port, main *Endpoint, br bridge, present map[string]Sandbox) ([]Port, error) {
	var ports []Port
	for _, w := range want {
		for _, p := range byFamily(w, main, br) {
			var err error
			if opened(p, main, br) {
				p.HostPort, p.HostEnd = 0, 0
			} else if p, err = choosePort(p, ports, present); err != nil {
				return nil, err
			}
			ports = append(ports, p)
		}
	}
	return ports, nil
}

// byFamily is p, for each version of IP if these are led in differently.
func byFamily(p Port, main *Endpoint, br bridge) []Port {
	p4, p6 := p, p
	p4.HostIP, p6.HostIP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if p.HostIP.IsValid() || opened(p4, main, br) == opened(p6, main, br) {
		return []Port{p}
	}
	return []Port{p4, p6}
}

// opened says whether what is to reach p is sent to the address of main itself, not to one of the host.
func opened(p Port, main *Endpoint, br bridge) bool {
	if main == nil {
		return false
	}
	to, other := main.Address.Addr(), main.Address6.Addr()
	if p.HostIP.Unmap().Is6() {
		to, other = other, to
	}
	if !to.IsValid() { // the keeper's listener leads to the other
		to = other
	}
	return br.mode(to) == modeRouted
}

func choosePort(p Port, own []Port, present map[string]Sandbox) (Port, error) {
	first, last := p.HostPort, max(p.HostPort, p.HostEnd)
	p.HostEnd = 0
	var failure error
	for try := range max(1, int(last)-int(first)+1) {
		p.HostPort = first + uint16(try)
		if p.HostPort != 0 && published(p, own, present) {
			failure = worded(errdefs.ErrConflict, "Bind for %s failed: port is already allocated", hostAddress(p, "0.0.0.0"))
			continue
		}
		var port uint16
		err := apart(func() (err error) {
			port, err = probePort(p)
			return err
		})
		if err == nil {
			p.HostPort = port
			return p, nil
		}
		failure = err
	}
	return p, failure
}

// published says whether the host port of p is given away already.
func published(p Port, own []Port, present map[string]Sandbox) bool {
	clash := func(q Port) bool {
		sameAddress := anyAddress(p.HostIP) && sameFamily(p, q) || anyAddress(q.HostIP) && sameFamily(p, q) || p.HostIP == q.HostIP
		return sameAddress && p.Protocol == q.Protocol && p.HostPort == q.HostPort
	}
	for _, q := range own {
		if clash(q) {
			return true
		}
	}
	for _, s := range present {
		for _, q := range s.Ports {
			if clash(q) {
				return true
			}
		}
	}
	return false
}

func anyAddress(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }

func sameFamily(p, q Port) bool {
	return !p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP.Is4() == q.HostIP.Is4()
}

// probePort binds the host port of p for a moment, and so finds a free one or learns
// that it is in use. The keeper binds it for good a moment later.
func probePort(p Port) (uint16, error) {
	network := p.Protocol
	if p.HostIP.IsValid() && p.HostIP.Is6() {
		network += "6" // [::] alone, without the IPv4 addresses
	}
	if p.Protocol == "udp" {
		c, err := net.ListenPacket(network, hostAddress(p, ""))
		if err != nil {
			return 0, portError(p, err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	if p.Protocol != "tcp" { // nothing of the host has sctp ports to probe
		if p.HostPort == 0 {
			p.HostPort = p.Container
		}
		return p.HostPort, nil
	}
	l, err := net.Listen(network, hostAddress(p, ""))
	if err != nil {
		return 0, portError(p, err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

func portError(p Port, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("failed to bind host port %s/%s: %w: %w", hostAddress(p, "0.0.0.0"), p.Protocol, errno, errdefs.ErrConflict)
	}
	return fmt.Errorf("failed to bind host port %s/%s: %w: %w", hostAddress(p, "0.0.0.0"), p.Protocol, errdefs.ErrConflict, err)
}

// hostAddress is what a listener for p binds; every is how no address is written.
// Docker's default is every IPv4 and IPv6 address.
func hostAddress(p Port, every string) string {
	if !p.HostIP.IsValid() {
		return fmt.Sprintf("%s:%d", every, p.HostPort)
	}
	return netip.AddrPortFrom(p.HostIP, p.HostPort).String()
}
