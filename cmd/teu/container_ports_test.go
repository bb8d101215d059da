package main

import (
	"net/netip"
	"testing"

	"github.com/teu-dev/teu/runner/network"
)

// The forms are what docker 28 shows for the same ports.
func TestPortsText(t *testing.T) {
	port := func(address string, outside, inside uint16) network.Port {
		p := network.Port{Protocol: "tcp", HostPort: outside, Container: inside}
		if address != "" {
			p.HostIP = netip.MustParseAddr(address)
		}
		return p
	}
	exposed := func(list ...uint16) (ports []network.Port) {
		for _, n := range list {
			ports = append(ports, network.Port{Protocol: "tcp", Container: n})
		}
		return ports
	}
	for _, test := range []struct {
		name      string
		published []network.Port
		exposed   []network.Port
		want      string
	}{
		{"nothing", nil, nil, ""},
		{"exposed only", nil, exposed(443, 80, 81), "80-81/tcp, 443/tcp"},
		{"published everywhere", []network.Port{port("", 80, 80)}, exposed(80), "0.0.0.0:80->80/tcp, [::]:80->80/tcp"},
		{"a range", []network.Port{port("127.0.0.1", 8001, 8001), port("127.0.0.1", 8000, 8000), port("127.0.0.1", 8003, 8003)}, nil,
			"127.0.0.1:8000-8001->8000-8001/tcp, 127.0.0.1:8003->8003/tcp"},
		{"other numbers come last", []network.Port{port("::1", 9000, 70), port("127.0.0.1", 80, 80)}, exposed(90),
			"127.0.0.1:80->80/tcp, 90/tcp, [::1]:9000->70/tcp"},
	} {
		if got := portsText(test.published, test.exposed); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
