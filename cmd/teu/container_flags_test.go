package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

func TestParsePublish(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	for text, want := range map[string][]network.Port{
		"80":                {{Protocol: "tcp", Container: 80}},
		"8080:80":           {{Protocol: "tcp", HostPort: 8080, Container: 80}},
		"53:53/udp":         {{Protocol: "udp", HostPort: 53, Container: 53}},
		"80/sctp":           {{Protocol: "sctp", Container: 80}},
		"127.0.0.1:8080:80": {{Protocol: "tcp", HostIP: local, HostPort: 8080, Container: 80}},
		"127.0.0.1::80":     {{Protocol: "tcp", HostIP: local, Container: 80}},
		"[::1]:8080:80":     {{Protocol: "tcp", HostIP: netip.IPv6Loopback(), HostPort: 8080, Container: 80}},
		"8000-8001:80-81":   {{Protocol: "tcp", HostPort: 8000, Container: 80}, {Protocol: "tcp", HostPort: 8001, Container: 81}},
		"":                  nil, ":": nil, "0": nil, "x:80": nil, "80/icmp": nil, "1.2.3:80:80": nil, "8000-8002:80-81": nil,
		"81-80": nil, "65536": nil, "[::1]": nil, "[::1": nil,
	} {
		got, err := parsePublish(text)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	f.Add("127.0.0.1:8000-8001:80-81/tcp")
	f.Add("[::1]:80")
	f.Fuzz(func(t *testing.T, text string) { parsePublish(text) })
}

func TestParseVolume(t *testing.T) {
	bind := runner.MountRequest{Type: "bind", Source: "/src", Target: "/dst", MakeSource: true}
	readOnly := bind
	readOnly.ReadOnly, readOnly.Propagation, readOnly.Mode = true, "rslave", "ro,rslave"
	for text, want := range map[string]runner.MountRequest{
		"/data":               {Type: "volume", Target: "/data"},
		"name:/data":          {Type: "volume", Source: "name", Target: "/data"},
		"name:/data:nocopy":   {Type: "volume", Source: "name", Target: "/data", NoCopy: true, Mode: "nocopy"},
		"/src:/dst":           bind,
		"/src:/dst:ro,rslave": readOnly,
	} {
		got, err := parseVolume(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"", ":", "a:", ":/b", "a:/b:c:d", "/a:/b:bogus"} {
		if got, err := parseVolume(text); err == nil {
			t.Errorf("%q: %+v, want an error", text, got)
		}
	}
}

func TestParseMount(t *testing.T) {
	for text, want := range map[string]runner.MountRequest{
		"type=bind,src=/a,dst=/b,readonly":       {Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, Long: true},
		"source=v,target=/b,volume-nocopy=true":  {Type: "volume", Source: "v", Target: "/b", NoCopy: true, Long: true},
		`type=tmpfs,dst=/t,"tmpfs-size=1m"`:      {Type: "tmpfs", Target: "/t", Options: []string{"size=1048576"}, Long: true},
		"type=bind,src=/a,dst=/b,readonly=false": {Type: "bind", Source: "/a", Target: "/b", Long: true},
	} {
		got, err := parseMount(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"", "type=bind,dst=/b", "type=nfs,dst=/b", "src=a", "dst=/b,bogus=1", `"`} {
		if got, err := parseMount(text); err == nil {
			t.Errorf("%q: %+v, want an error", text, got)
		}
	}
}
