package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
)

// define makes a network that is gone after the test.
func define(t *testing.T, m *Manager, o CreateOptions) Network {
	t.Helper()
	n, err := m.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), n.ID); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	return n
}

func on(name string, networks ...Network) Options {
	var o Options
	for _, n := range networks {
		o.Networks = append(o.Networks, Attachment{Network: n, Names: []string{name}})
	}
	return o
}

func TestNetworksAreApart(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	red, blue := define(t, m, CreateOptions{Name: "red"}), define(t, m, CreateOptions{Name: "blue"})
	a, b := attach(t, m, "a", on("a", red)), attach(t, m, "b", on("b", red))
	other, plain := attach(t, m, "c", on("c", blue)), attach(t, m, "d", Options{})
	both := attach(t, m, "e", on("e", red, blue))
	serve(t, a.NetNS, ":80")
	target := a.Address.Addr().String() + ":80"
	for _, c := range []struct {
		name, from string
		reached    bool
	}{
		{"the same network", b.NetNS, true}, {"another network", other.NetNS, false}, {"the default network", plain.NetNS, false},
		{"both networks", both.NetNS, true}, {"the host", here, true},
	} {
		visit := ask
		if !c.reached {
			visit = askBriefly
		}
		if got, err := visit(t, c.from, target); (err == nil) != c.reached {
			t.Errorf("from %s: got %q, %v; want reached %v", c.name, got, err, c.reached)
		}
	}
	var zone dns.Zone
	if err := statefile.Read(m.zone(red.ID), &zone); err != nil || len(zone.Members) != 3 {
		t.Errorf("zone of red: got %+v, %v; want three members", zone, err)
	}
}

func TestInternalLeadsNowhere(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	client := outside(t)
	inside, open := define(t, m, CreateOptions{Name: "inside", Internal: true}), define(t, m, CreateOptions{Name: "open"})
	a, b := attach(t, m, "a", on("a", inside)), attach(t, m, "b", on("b", inside))
	published := on("c", open)
	published.Ports = []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}
	c := attach(t, m, "c", published)
	for _, path := range []string{b.NetNS, c.NetNS, client} {
		serve(t, path, ":80")
	}
	if a.Gateway.IsValid() || a.Main() != nil {
		t.Errorf("an internal endpoint has a gateway: %+v", a.Endpoints)
	}
	for id, closed := range map[string]bool{"a": true, "c": false} {
		var names dns.Config // CVE-2024-29018: names of the world are asked of the host's servers, outside
		if err := statefile.Read(m.DNSFile(id), &names); err != nil || names.Closed != closed {
			t.Errorf("%s: %+v, %v; want closed to names of the world: %v", id, names, err, closed)
		}
	}
	// What a process with all rights inside would do.
	in(t, a.NetNS, func() error {
		out, err := exec.Command("ip", "route", "add", "default", "via", inside.IPAM.Config[0].Gateway.String()).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if _, err := ask(t, a.NetNS, b.Address.Addr().String()+":80"); err != nil {
		t.Errorf("inside: %v", err)
	}
	for name, address := range map[string]string{
		"outside": "10.9.0.2:80", "another network": c.Address.Addr().String() + ":80",
		"a published port": inside.IPAM.Config[0].Gateway.String() + ":8080",
	} {
		if got, err := askBriefly(t, a.NetNS, address); err == nil {
			t.Errorf("%s answered %q", name, got)
		}
	}
	if got, err := askBriefly(t, client, a.Address.Addr().String()+":80"); err == nil {
		t.Errorf("from outside: %q", got)
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	client := outside(t)
	red, blue := define(t, m, CreateOptions{Name: "red"}), define(t, m, CreateOptions{Name: "blue"})
	a, b := attach(t, m, "a", on("a", red)), attach(t, m, "b", on("b", blue))
	serve(t, b.NetNS, ":80")
	serve(t, client, ":80")
	target := b.Address.Addr().String() + ":80"
	s, err := m.Connect(t.Context(), "a", Attachment{Network: blue, Names: []string{"a", "alias"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, a.NetNS, target); err != nil || got != s.In(blue.ID).Address.Addr().String() {
		t.Errorf("connected: got %q, %v", got, err)
	}
	if main := s.Main(); main.NetworkName != "blue" { // the first by name
		t.Errorf("the default route is by %s, want blue", main.NetworkName)
	}
	if err := m.Remove(t.Context(), blue.ID); !errdefs.IsPermissionDenied(err) {
		t.Errorf("removing a network in use: got %v, want permission denied", err)
	}
	if s, err = m.Disconnect(t.Context(), "a", blue.ID); err != nil || len(s.Endpoints) != 1 {
		t.Fatalf("got %+v, %v", s, err)
	}
	if got, err := askBriefly(t, a.NetNS, target); err == nil {
		t.Errorf("disconnected: b answered %q", got)
	}
	if _, err := ask(t, a.NetNS, "10.9.0.2:80"); err != nil {
		t.Errorf("the way out after a disconnect: %v", err)
	}
	if _, err := m.Disconnect(t.Context(), "a", blue.ID); !errdefs.IsNotFound(err) {
		t.Errorf("twice: got %v, want not found", err)
	}
}

func TestAddressesOfNetworks(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	n := define(t, m, CreateOptions{Name: "n", IPAM: []IPAMConfig{{
		Subnet: netip.MustParsePrefix("10.7.0.0/24"), IPRange: netip.MustParsePrefix("10.7.0.128/30"),
		AuxiliaryAddresses: map[string]netip.Addr{"printer": netip.MustParseAddr("10.7.0.129")},
	}}})
	if got := n.IPAM.Config[0].Gateway.String(); got != "10.7.0.128" {
		t.Errorf("gateway: got %s, want the first of the range", got)
	}
	static := on("s", n)
	static.Networks[0].IPv4, static.Networks[0].MAC = netip.MustParseAddr("10.7.0.9"), "02:00:00:00:00:09"
	s := attach(t, m, "s", static)
	if s.Address.String() != "10.7.0.9/24" || s.Endpoints[0].MAC != "02:00:00:00:00:09" {
		t.Errorf("got %+v", s.Endpoints[0])
	}
	if _, err := m.Attach(t.Context(), "t", static); !errdefs.IsPermissionDenied(err) {
		t.Errorf("an address twice: got %v, want permission denied", err)
	}
	if got := attach(t, m, "a", on("a", n)).Address.Addr().String(); got != "10.7.0.130" {
		t.Errorf("first address: got %s, want 10.7.0.130", got)
	}
	attach(t, m, "b", on("b", n))
	if _, err := m.Attach(t.Context(), "c", on("c", n)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("range used up: got %v, want resource exhausted", err)
	}
	for _, o := range []CreateOptions{
		{Name: "x", IPAM: []IPAMConfig{{Subnet: netip.MustParsePrefix("10.7.0.64/26")}}},
		{Name: "n"}, {Name: "bridge"},
		{Name: "x", IPAM: []IPAMConfig{{Subnet: netip.MustParsePrefix("10.8.0.0/24"), Gateway: netip.MustParseAddr("10.9.0.1")}}},
		{Name: "x", Options: map[string]string{"com.docker.network.bridge.name": "../../x"}},
		{Name: "", Driver: "bridge"}, {Name: "x", Driver: "overlay"},
	} {
		if made, err := m.Create(t.Context(), o); err == nil {
			t.Errorf("%+v was made: %+v", o, made)
		}
	}
}

func TestBothProtocols(t *testing.T) {
	if !sandbox(t) {
		return
	}
	yes := true
	m := Open(t.TempDir(), t.TempDir())
	n := define(t, m, CreateOptions{Name: "dual", EnableIPv6: &yes})
	o := on("a", n)
	o.Ports = []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}
	a, b := attach(t, m, "a", o), attach(t, m, "b", on("b", n))
	six := a.Endpoints[0].Address6.Addr()
	if !six.IsPrivate() || !a.Endpoints[0].Gateway6.IsValid() {
		t.Fatalf("got %+v, want a unique local address and a gateway", a.Endpoints[0])
	}
	serve6(t, a.NetNS, "[::]:80")
	for name, c := range map[string][2]string{
		"a neighbour":               {b.NetNS, netip.AddrPortFrom(six, 80).String()},
		"the host":                  {here, netip.AddrPortFrom(six, 80).String()},
		"the host by the published": {here, netip.AddrPortFrom(a.Endpoints[0].Gateway6, 8080).String()},
		"itself by the published":   {a.NetNS, netip.AddrPortFrom(a.Endpoints[0].Gateway6, 8080).String()},
	} {
		var failure error
		in(t, c[0], func() error {
			conn, err := net.DialTimeout("tcp6", c[1], time.Minute)
			if failure = err; err == nil {
				conn.Close()
			}
			return nil
		})
		if failure != nil {
			t.Errorf("%s: %v", name, failure)
		}
	}
}

func serve6(t *testing.T, path, address string) {
	t.Helper()
	var l net.Listener
	in(t, path, func() (err error) {
		l, err = net.Listen("tcp6", address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

func TestNamespaceOutlivesItsContainer(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	n := define(t, m, CreateOptions{Name: "n"})
	o := on("a", n)
	o.Ports = []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}
	a := attach(t, m, "a", o)
	b := attach(t, m, "b", on("b", n))
	if path, err := m.Share(t.Context(), "a", self(t), "rider"); err != nil || path != a.NetNS {
		t.Fatalf("got %q, %v", path, err)
	}
	serve(t, a.NetNS, ":80")
	target := a.Address.Addr().String() + ":80"
	gone := func(when string) {
		if members, err := m.Members(n.ID); err != nil || slices.ContainsFunc(members, func(s Sandbox) bool { return s.ID == "a" }) {
			t.Errorf("%s: members are %+v, %v", when, members, err)
		}
	}
	for range 2 {
		if err := m.Detach(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		gone("while it is down")
		if _, err := ask(t, b.NetNS, target); err != nil {
			t.Errorf("the rider is not reached while a is down: %v", err)
		}
		if _, err := askBriefly(t, here, a.Gateway.String()+":8080"); err == nil {
			t.Error("the port is still published while a is down")
		}
		again, err := m.Attach(t.Context(), "a", o)
		if err != nil || again.Endpoints[0].Address != a.Address || again.NetNS != a.NetNS {
			t.Fatalf("again: got %+v, %v", again, err)
		}
		if _, err := ask(t, here, a.Gateway.String()+":8080"); err != nil {
			t.Errorf("the port is not published again: %v", err)
		}
	}
	if err := errors.Join(m.Detach(t.Context(), "a"), m.Detach(t.Context(), "rider")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(a.NetNS); !os.IsNotExist(err) {
		t.Errorf("the namespace outlives everybody: %v", err)
	}
}

func TestPortsChosen(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	var ports []Port
	for p := uint16(9000); p < 9100; p++ {
		ports = append(ports, Port{Protocol: "tcp", HostPort: p, Container: p})
	}
	if runs := portRuns(ports); len(runs) != 1 || runs[0].last != 9099 {
		t.Errorf("a range is %d rules, want one", len(runs))
	}
	attach(t, m, "a", Options{Ports: append(ports, Port{Protocol: "udp", HostPort: 9000, Container: 53})})
	b := attach(t, m, "b", Options{Ports: []Port{{Protocol: "tcp", HostPort: 9098, HostEnd: 9101, Container: 80}}})
	if got := b.Ports[0].HostPort; got != 9100 {
		t.Errorf("first free of a range: got %d, want 9100", got)
	}
	_, err := m.Attach(t.Context(), "c", Options{Ports: []Port{{Protocol: "tcp", HostPort: 9050, Container: 80}}})
	if want := "Bind for 0.0.0.0:9050 failed: port is already allocated"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	// The other end of a range is served too.
	serve(t, m.NetNSPath("a"), ":9099")
	if _, err := ask(t, here, b.Gateway.String()+":9099"); err != nil {
		t.Errorf("port 9099: %v", err)
	}
}

func TestRepairAfterFlush(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	a := attach(t, m, "a", Options{Ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}})
	serve(t, a.NetNS, ":80")
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	if got, err := askBriefly(t, here, a.Gateway.String()+":8080"); err == nil {
		t.Fatalf("the flush flushed nothing: %q", got)
	}
	if err := m.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, here, a.Gateway.String()+":8080"); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

func TestDropping(t *testing.T) {
	if !sandbox(t) {
		return
	}
	attach(t, New(t.TempDir()), "a", Options{}) // our own table drops nothing by policy
	script := "add table inet strict; add chain inet strict f { type filter hook forward priority 0; policy drop; }; " +
		"add chain inet strict i { type filter hook input priority 0; policy drop; }; " +
		"add table ip ufw; add chain ip ufw FORWARD { type filter hook forward priority 0; policy drop; }; " +
		"add table ip6 ufw; add chain ip6 ufw FORWARD { type filter hook forward priority 0; policy drop; }; " +
		"add table inet zones; add chain inet zones z { type filter hook forward priority 10; policy accept; }; " +
		"add rule inet zones z ct state established accept; add rule inet zones z counter reject with icmpx type admin-prohibited; " +
		"add table inet lax; add chain inet lax l { type filter hook forward priority 10; policy accept; }; " +
		"add rule inet lax l iifname other drop"
	if out, err := exec.Command("nft", script).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	got, err := Dropping()
	if want := []string{"chain f of table strict", "chain FORWARD of table ufw", "chain z of table zones"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestClosedBridge(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	n := define(t, m, CreateOptions{Name: "n", Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}})
	o := on("a", n)
	o.Ports = []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}
	a, b := attach(t, m, "a", o), attach(t, m, "b", on("b", n))
	serve(t, a.NetNS, ":80")
	if got, err := askBriefly(t, b.NetNS, a.Address.Addr().String()+":80"); err == nil {
		t.Errorf("a neighbour answered %q", got)
	}
	if _, err := ask(t, here, a.Gateway.String()+":8080"); err != nil {
		t.Errorf("the published port from the host: %v", err)
	}
}

// TestManyOnOneNetwork is two hundred containers that find each other.
func TestManyOnOneNetwork(t *testing.T) {
	if !sandbox(t) {
		return
	}
	count := 25
	if os.Getenv("TEU_SOAK") != "" {
		count = 200
	}
	m := Open(t.TempDir(), t.TempDir())
	n := define(t, m, CreateOptions{Name: "n"})
	var all []attached
	for i := range count {
		all = append(all, attach(t, m, fmt.Sprint("c", i), on(fmt.Sprint("c", i), n)))
	}
	last := all[count-1]
	serve(t, last.NetNS, ":80")
	for _, c := range []attached{all[0], all[count/2]} {
		if _, err := ask(t, c.NetNS, last.Address.Addr().String()+":80"); err != nil {
			t.Errorf("%s: %v", c.ID, err)
		}
	}
	var zone dns.Zone
	if err := statefile.Read(m.zone(n.ID), &zone); err != nil || len(zone.Members) != count {
		t.Errorf("zone: %d members, %v; want %d", len(zone.Members), err, count)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	before := linkNames(t)
	bridge, err := m.Create(t.Context(), CreateOptions{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	lan, err := m.Create(t.Context(), CreateOptions{Name: "m", Driver: "macvlan"})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []Network{bridge, lan} {
		s, err := m.Attach(t.Context(), "a", on("a", n))
		if err != nil {
			t.Fatal(err)
		}
		if n.Driver == "macvlan" && s.Main().Interface != "eth0" {
			t.Errorf("got %+v", s)
		}
		if err := errors.Join(m.Detach(t.Context(), "a"), m.Remove(t.Context(), n.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLinks(t, before)
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tables are left: %s, %v", out, err)
	}
}

// wantLinks waits for the pairs to go, which they do when the kernel gets round to it: one network of the machine
// after another is taken down.
func wantLinks(t *testing.T, want []string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if got := linkNames(t); slices.Equal(got, want) {
			return
		} else if time.Now().After(end) {
			t.Errorf("interfaces: got %v, want %v", got, want)
			return
		}
	}
}

func linkNames(t *testing.T) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

// TestForeignBridgeStays: a bridge of the administrator's is used, and left alone; another
// interface is not taken for one.
func TestForeignBridgeStays(t *testing.T) {
	if !sandbox(t) {
		return
	}
	for _, link := range []string{"bridge", "veth"} {
		if out, err := exec.Command("ip", "link", "add", "mine-"+link, "type", link).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m := Open(t.TempDir(), t.TempDir())
	named := func(name string) CreateOptions {
		return CreateOptions{Name: name, Options: map[string]string{"com.docker.network.bridge.name": name}}
	}
	n, err := m.Create(t.Context(), named("mine-bridge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(t.Context(), named("mine-veth")); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a network on a veth: got %v, want permission denied", err)
	}
	for _, name := range []string{"mine-bridge", "mine-veth"} {
		if _, err := netlink.LinkByName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigOnlyInUse(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := Open(t.TempDir(), t.TempDir())
	config := define(t, m, CreateOptions{Name: "config", ConfigOnly: true})
	for _, from := range []string{config.Name, config.ID} {
		user := define(t, m, CreateOptions{Name: "user", ConfigFrom: from})
		if err := m.Remove(t.Context(), config.ID); !errdefs.IsPermissionDenied(err) {
			t.Errorf("in use: %v", err)
		}
		if err := m.Remove(t.Context(), user.ID); err != nil {
			t.Error(err)
		}
	}
	if err := m.Remove(t.Context(), config.ID); err != nil {
		t.Error(err)
	}
}
