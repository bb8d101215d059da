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
// taken, by another container or by a socket of the host.
func choosePorts(want []Port, present map[string]Sandbox) ([]Port, error) {
	var ports []Port
	for _, p := range want {
		chosen, err := choosePort(p, ports, present)
		if err != nil {
			return nil, err
		}
		ports = append(ports, chosen)
	}
	return ports, nil
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
