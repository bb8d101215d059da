package network

import (
	"math"
	"net/netip"
	"testing"
)

// TestStatus: the numbers are those that moby's TestBridgeIPAMStatus wants.
func TestStatus(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	n := Network{IPAM: IPAM{Config: []IPAMConfig{
		{Subnet: prefix("192.168.0.0/24"), IPRange: prefix("192.168.0.64/31"), Gateway: addr("192.168.0.1"),
			AuxiliaryAddresses: map[string]netip.Addr{"a": addr("192.168.0.65"), "b": addr("192.168.0.128")}},
		{Subnet: prefix("2001:db8:abcd::/64"), IPRange: prefix("2001:db8:abcd::/120"), Gateway: addr("2001:db8:abcd::1"),
			AuxiliaryAddresses: map[string]netip.Addr{"a": addr("2001:db8:abcd::2a"), "b": addr("2001:db8:abcd::8000")}},
		{Subnet: prefix("2001:db8:ff00::/56"), Gateway: addr("2001:db8:ff00::1")},
		{Subnet: prefix("10.0.0.0/31")},
	}}}
	members := []netip.Addr{addr("192.168.0.64"), addr("192.168.0.129"), addr("10.0.0.0")}
	for subnet, want := range map[string]SubnetStatus{
		"192.168.0.0/24": {7, 0}, "2001:db8:abcd::/64": {4, 253}, "2001:db8:ff00::/56": {2, math.MaxUint64}, "10.0.0.0/31": {1, 1},
	} {
		if got := n.Status(members)[prefix(subnet)]; got != want {
			t.Errorf("%s: %+v, want %+v", subnet, got, want)
		}
	}
	if got := n.Status(nil)[prefix("192.168.0.0/24")]; got != (SubnetStatus{5, 1}) {
		t.Errorf("without members: %+v", got)
	}
}

// TestBooleanOptions: what docker takes for true and false is so here too, and is not taken for neither.
func TestBooleanOptions(t *testing.T) {
	for word, yes := range map[string]bool{"1": true, "T": true, "True": true, "true": true, "0": false, "f": false, "FALSE": false, "false": false} {
		n := Network{ID: "0123456789abcdef", Driver: "bridge", Internal: true, Options: map[string]string{enableICC: word, enableMasquerade: word, inhibitIPv4: word}}
		if err := n.checkOptions(); err != nil {
			t.Fatalf("%s: %v", word, err)
		}
		if br := bridgeOf(n); br.Closed == yes || br.Plain == yes || br.Bare != yes || n.hasGateway(netip.MustParsePrefix("10.0.0.0/24")) == yes {
			t.Errorf("%s: %+v", word, br)
		}
	}
	for _, word := range []string{"", "2", "yes"} {
		n := Network{Driver: "bridge", Options: map[string]string{enableICC: word}}
		if err := n.checkOptions(); err == nil {
			t.Errorf("%q is no truth value", word)
		}
	}
}
