package network

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
)

// TestGatewayModes is who reaches a container, and as whom it goes out, by the options of its network.
func TestGatewayModes(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	client := outside(t)
	ip := func(path string, args ...string) {
		in(t, path, func() error {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
			return nil
		})
	}
	ip(here, "addr", "add", "10.9.0.7/24", "dev", "cable")
	ip(here, "addr", "add", "fd09::1/64", "dev", "cable", "nodad")
	ip(client, "addr", "add", "fd09::2/64", "dev", "cable", "nodad")
	ip(client, "route", "add", "fd00:30::/64", "via", "fd09::1")
	serveBoth := func(t *testing.T, path, port string) {
		serve(t, path, ":"+port)
		serve(t, path, "[::]:"+port)
	}
	serveBoth(t, client, "80")
	const own = "its own" // address
	for i, tc := range []struct {
		name           string
		options        map[string]string
		host           string // what the client gets from 10.9.0.1:8080
		address        string // from port 80 of the container's own address
		hidden         string // from port 81, which is not published
		out, out6      string // as whom the client sees the container
		address6, echo bool   // whether the container's address is open by IPv6, and answers to ping
		ports          []Port
	}{
		{name: "nat", host: "10.9.0.2", out: "10.9.0.1", out6: "fd09::1", ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}},
		{name: "routed", options: map[string]string{gatewayMode4: "routed", gatewayMode6: "routed"},
			address: "10.9.0.2", out: own, out6: own, address6: true, echo: true, ports: []Port{{Protocol: "tcp", Container: 80}}},
		{name: "routed by IPv6", options: map[string]string{gatewayMode6: "routed"},
			host: "10.9.0.2", out: "10.9.0.1", out6: own, address6: true, ports: []Port{
				{Protocol: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: 8080, Container: 80}, {Protocol: "tcp", HostIP: netip.IPv6Unspecified(), Container: 80}}},
		{name: "unprotected", options: map[string]string{gatewayMode4: "nat-unprotected"},
			host: "10.9.0.2", address: "10.9.0.2", hidden: "10.9.0.2", out: "10.9.0.1", out6: "fd09::1", echo: true,
			ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}},
		{name: "trusted", options: map[string]string{trustedInterfaces: "lo:cable"},
			host: "10.9.0.2", address: "10.9.0.2", out: "10.9.0.1", out6: "fd09::1", address6: true, ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}},
		{name: "source", options: map[string]string{hostIPv4: "10.9.0.7"},
			host: "10.9.0.2", out: "10.9.0.7", out6: "fd09::1", ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := define(t, m, CreateOptions{Name: fmt.Sprint("n", i), Options: tc.options, IPAM: []IPAMConfig{{Subnet: netip.MustParsePrefix("fd00:30::/64")}}})
			o := on("c", n)
			o.Ports = []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}
			c := attach(t, m, fmt.Sprint("c", i), o)
			serveBoth(t, c.NetNS, "80")
			serveBoth(t, c.NetNS, "81")
			if !slices.Equal(c.Ports, tc.ports) {
				t.Errorf("ports %v, want %v", c.Ports, tc.ports)
			}
			address, address6 := c.Address.Addr().String(), c.Endpoints[0].Address6.Addr().String()
			check := func(what, path, where, want string) {
				t.Helper()
				asking := ask
				if want == "" {
					asking = askBriefly
				}
				if got, err := asking(t, path, where); got != want {
					t.Errorf("%s: %q, %v; want %q", what, got, err, want)
				}
			}
			check("the host's port", client, "10.9.0.1:8080", tc.host)
			check("the container's", client, address+":80", tc.address)
			check("the container's by IPv6", client, net.JoinHostPort(address6, "80"), map[bool]string{true: "fd09::2"}[tc.address6])
			check("another of its ports", client, address+":81", tc.hidden)
			check("another by IPv6", client, net.JoinHostPort(address6, "81"), "")
			named := func(want, address string) string {
				if want == own {
					return address
				}
				return want
			}
			check("outside", c.NetNS, "10.9.0.2:80", named(tc.out, address))
			check("outside by IPv6", c.NetNS, "[fd09::2]:80", named(tc.out6, address6))
			in(t, client, func() error {
				if err := exec.Command("busybox", "ping", "-c1", "-W1", address).Run(); (err == nil) != tc.echo {
					t.Errorf("ping: %v", err)
				}
				return nil
			})
		})
	}
}
