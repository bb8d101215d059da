package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
	"github.com/teu-dev/teu/test/privilege"
)

// insideEnv marks the process that was born in a network namespace of its own. Nothing
// these tests send can leave by the uplink of the machine.
const insideEnv = "TEU_NETWORK_TEST_INSIDE"

// sandbox runs the calling test again in a process with its own network and mount
// namespaces. It returns true there; in the outer process the result is passed on.
func sandbox(t *testing.T) bool {
	t.Helper()
	privilege.NeedRoot(t)
	if os.Getenv(insideEnv) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	if end, ok := t.Deadline(); ok {
		cmd.Args = append(cmd.Args, "-test.timeout="+(time.Until(end)*9/10).String())
	}
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the sandbox: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("the sandbox ran no test:\n%s", out)
	}
	return false
}

// in runs f on a thread inside the namespace at path.
func in(t *testing.T, path string, f func() error) {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if path != here {
			err = enterNS(path)
		}
		if err == nil {
			err = f()
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Fatalf("in %s: %v", path, err)
	}
}

func enterNS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// versionOf is the network an address is of. What Go finds out of IPv6 was so before lo was up.
func versionOf(address string) string {
	if strings.HasPrefix(address, "[") {
		return "tcp6"
	}
	return "tcp4"
}

// serve answers every connection in the namespace at path with the client's address.
func serve(t *testing.T, path, address string) {
	t.Helper()
	var l net.Listener
	in(t, path, func() (err error) {
		l, err = net.Listen(versionOf(address), address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// ask connects from the namespace at path and returns what the server said.
func ask(t *testing.T, path, address string) (string, error) {
	t.Helper()
	return askFor(t, time.Minute, path, address)
}

// askBriefly is ask for what nobody shall answer.
func askBriefly(t *testing.T, path, address string) (string, error) {
	t.Helper()
	return askFor(t, time.Second, path, address)
}

func askFor(t *testing.T, patience time.Duration, path, address string) (string, error) {
	t.Helper()
	var answer string
	var failure error
	in(t, path, func() error {
		c, err := net.DialTimeout(versionOf(address), address, patience)
		if err != nil {
			failure = err
			return nil
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer, failure
}

// here stands for the namespace the test runs in.
const here = ""

// attached is a sandbox with the addresses of its first endpoint.
type attached struct {
	Sandbox
	Address netip.Prefix
	Gateway netip.Addr
}

func attach(t *testing.T, m *Manager, id string, o Options) attached {
	t.Helper()
	s, err := m.Attach(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Detach(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	return attached{s, s.Endpoints[0].Address, s.Endpoints[0].Gateway}
}

// outside makes a namespace connected to this one by a cable, 10.9.0.1 here and 10.9.0.2 there.
func outside(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "outside")
	in(t, here, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return holdNetNS("/proc/thread-self/ns/net", path)
	})
	t.Cleanup(func() { removeNetNS(path) })
	run := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cable"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "cable", PeerNamespace: netlink.NsFd(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	run("addr", "add", "10.9.0.1/24", "dev", "cable")
	run("link", "set", "cable", "up")
	in(t, path, func() error {
		for _, args := range [][]string{{"addr", "add", "10.9.0.2/24", "dev", "cable"}, {"link", "set", "cable", "up"}, {"route", "add", "172.16.0.0/12", "via", "10.9.0.1"}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		return nil
	})
	return path
}

func TestContainersReachEachOther(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	a, b := attach(t, m, "a", Options{}), attach(t, m, "b", Options{})
	serve(t, a.NetNS, ":80")
	got, err := ask(t, b.NetNS, a.Address.Addr().String()+":80")
	if want := b.Address.Addr().String(); err != nil || got != want {
		t.Errorf("b asked a: got %q, %v; want b's own address %q", got, err, want)
	}
	if got, err = ask(t, here, a.Address.Addr().String()+":80"); err != nil || got != a.Gateway.String() {
		t.Errorf("the host asked a: got %q, %v; want the gateway %s", got, err, a.Gateway)
	}
}

func TestPublishedPort(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	client := outside(t)
	ep := attach(t, m, "a", Options{Ports: []Port{
		{Protocol: "tcp", Container: 80},
		{Protocol: "tcp", HostIP: netip.MustParseAddr("10.9.0.1"), HostPort: 8081, Container: 80},
		{Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8082, Container: 80},
	}})
	if ep.Ports[0].HostPort == 0 {
		t.Fatal("no host port was chosen")
	}
	serve(t, ep.NetNS, ":80")
	open := fmt.Sprintf(":%d", ep.Ports[0].HostPort)
	for _, c := range []struct{ name, from, address, want string }{
		{"from outside the client's address is seen", client, "10.9.0.1" + open, "10.9.0.2"},
		{"on one address", client, "10.9.0.1:8081", "10.9.0.2"},
		{"from the host by its own address", here, "10.9.0.1" + open, "10.9.0.1"},
		{"from the container itself", ep.NetNS, "10.9.0.1" + open, ep.Gateway.String()},
	} {
		if got, err := ask(t, c.from, c.address); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	if got, err := askBriefly(t, client, "10.9.0.1:8082"); err == nil {
		t.Errorf("a port published on loopback answered outside: %q", got)
	}
	if got, err := askBriefly(t, client, ep.Address.Addr().String()+":80"); err == nil {
		t.Errorf("a machine with a route to the bridge's subnet was let in: %q", got)
	}
}

func TestContainersReachOutsideByNAT(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	client := outside(t)
	ep := attach(t, m, "a", Options{})
	serve(t, client, ":80")
	if got, err := ask(t, ep.NetNS, "10.9.0.2:80"); err != nil || got != "10.9.0.1" {
		t.Errorf("got %q, %v; want the host's address", got, err)
	}
	// A firewall reload flushes everything; the next container brings the rules back.
	if err := m.dropRules(); err != nil {
		t.Fatal(err)
	}
	attach(t, m, "b", Options{})
	if got, err := ask(t, ep.NetNS, "10.9.0.2:80"); err != nil || got != "10.9.0.1" {
		t.Errorf("after a flush: got %q, %v; want the host's address", got, err)
	}
}

func TestPortConflict(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	attach(t, m, "a", Options{Ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}})
	_, err := m.Attach(t.Context(), "b", Options{Ports: []Port{{Protocol: "tcp", HostPort: 8080, Container: 80}}})
	if !errdefs.IsConflict(err) {
		t.Errorf("second publisher: got %v, want a conflict", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:9090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = m.Attach(t.Context(), "c", Options{Ports: []Port{{Protocol: "tcp", HostPort: 9090, Container: 80}}})
	if !errdefs.IsConflict(err) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port of a process: got %v, want a conflict with EADDRINUSE", err)
	}
	for _, id := range []string{"b", "c"} {
		if _, err := os.Lstat(m.NetNSPath(id)); !os.IsNotExist(err) {
			t.Errorf("a failed attach left %s: %v", m.NetNSPath(id), err)
		}
	}
}

func TestDetachAndReset(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	ep := attach(t, m, "a", Options{})
	if err := m.Reset(t.Context()); !errdefs.IsConflict(err) {
		t.Errorf("reset with an endpoint: got %v, want a conflict", err)
	}
	for range 2 {
		if err := m.Detach(t.Context(), "a"); err != nil {
			t.Errorf("detach: %v", err)
		}
	}
	if _, err := os.Lstat(ep.NetNS); !os.IsNotExist(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
	if again := attach(t, m, "b", Options{}); again.Address != ep.Address {
		t.Errorf("the address was not given back: got %s, want %s", again.Address, ep.Address)
	}
	if err := m.Detach(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(t.Context()); err != nil {
		t.Errorf("reset: %v", err)
	}
	if _, err := netlink.LinkByName(m.name); err == nil {
		t.Error("the bridge is still there")
	}
}

// TestNetworkRemovedMeanwhile: who has looked a network up and comes after its removal makes no interface for it,
// which nobody would take away again.
func TestNetworkRemovedMeanwhile(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m, ctx := Open(t.TempDir(), t.TempDir()), t.Context()
	attach(t, m, "a", Options{})
	before := linkNames(t)
	for _, driver := range []string{"bridge", "macvlan"} {
		n, err := m.Create(ctx, CreateOptions{Name: "n", Driver: driver})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(ctx, n.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Connect(ctx, "a", Attachment{Network: n}); !errdefs.IsNotFound(err) {
			t.Errorf("connect to a removed %s: got %v, want not found", driver, err)
		}
		if _, err := m.Attach(ctx, "b", Options{Networks: []Attachment{{Network: n}}}); !errdefs.IsNotFound(err) {
			t.Errorf("attach to a removed %s: got %v, want not found", driver, err)
		}
		if after := linkNames(t); !slices.Equal(after, before) {
			t.Errorf("interfaces after a removed %s: got %v, want %v", driver, after, before)
		}
	}
}

// TestRepairAfterReset: a repair that comes late leaves nothing where there is nothing any more.
func TestRepairAfterReset(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := New(dir).Repair(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there again: %v", err)
	}
}

// The bridge and the table of a run directory that is gone are removed by whoever makes the next bridge. Those of one that is
// there, or that somebody uses, stay, and so does what has only the name.
func TestOrphans(t *testing.T) {
	if !sandbox(t) {
		return
	}
	gone, used, live := New(filepath.Join(t.TempDir(), "gone")), New(filepath.Join(t.TempDir(), "used")), New(t.TempDir())
	for _, m := range []*Manager{gone, used, live} {
		attach(t, m, "a", Options{})
	}
	if err := errors.Join(gone.Detach(t.Context(), "a"), live.Detach(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	foreign := nameOf("/no/such")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = foreign
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Manager{gone, used} {
		if err := os.Rename(m.runRoot, m.runRoot+".moved"); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool { _, err := netlink.LinkByName(name); return err == nil }
	for end := time.Now().Add(time.Minute); there(gone.name) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		// The kernel takes its time to remove the port of a namespace.
		next := New(t.TempDir())
		attach(t, next, "a", Options{})
	}
	tables, err := (&nftables.Conn{}).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{gone.name: false, used.name: true, live.name: true, foreign: true} {
		table := slices.ContainsFunc(tables, func(table *nftables.Table) bool { return table.Name == name })
		if there(name) != want || table != (want && name != foreign) {
			t.Errorf("%s: the bridge is there: %v, its table: %v, want %v", name, there(name), table, want)
		}
	}
	if err := os.Rename(used.runRoot+".moved", used.runRoot); err != nil { // to be detached
		t.Fatal(err)
	}
}

func TestAttachAgainAtOnce(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	for range 10 {
		ep, err := m.Attach(t.Context(), "a", Options{})
		if err != nil {
			t.Fatal(err)
		}
		// A process that is still ending keeps the namespace, and with it the pair, alive.
		held, err := os.Open(ep.NetNS)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		if err := m.Detach(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadOwnersAreSwept(t *testing.T) {
	if !sandbox(t) {
		return
	}
	m := New(t.TempDir())
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	owner, err := statefile.Identify(sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	left := attach(t, m, "step", Options{Owner: &owner})
	attach(t, m, "a", Options{})
	if _, err := m.Get("step"); err != nil {
		t.Fatalf("an endpoint with a living owner: %v", err)
	}
	sleeper.Process.Kill()
	sleeper.Wait()
	attach(t, m, "b", Options{})
	if _, err := os.Lstat(left.NetNS); !os.IsNotExist(err) {
		t.Errorf("the namespace of a dead owner is still there: %v", err)
	}
	if _, err := m.Get("step"); !errdefs.IsNotFound(err) {
		t.Errorf("its record: got %v, want not found", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	if !sandbox(t) {
		return
	}
	dir := t.TempDir()
	const n = 20
	eps := make([]Sandbox, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			// A Manager each, as separate processes would have.
			if eps[i], err = New(dir).Attach(t.Context(), fmt.Sprint("c", i), Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Prefix]string{}
	for _, ep := range eps {
		if other, ok := seen[ep.Endpoints[0].Address]; ok {
			t.Errorf("%s and %s have one address, %s", ep.ID, other, ep.Endpoints[0].Address)
		}
		seen[ep.Endpoints[0].Address] = ep.ID
		if err := New(dir).Detach(t.Context(), ep.ID); err != nil {
			t.Error(err)
		}
	}
}

func TestFreeSubnet(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		name string
		used []netip.Prefix
		want string
	}{
		{"nothing used", nil, "172.30.0.1/24"},
		{"first taken", prefixes("172.30.0.0/24"), "172.30.1.1/24"},
		{"inside a larger route", prefixes("172.30.0.0/16"), "172.31.0.1/24"},
		{"a host route in it", prefixes("172.30.0.77/32", "172.30.1.0/30"), "172.30.2.1/24"},
	} {
		got, err := freeSubnet(c.used)
		if err != nil || got.String() != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.name, got, err, c.want)
		}
	}
	if _, err := freeSubnet(prefixes("172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("all taken: got %v, want resource exhausted", err)
	}
}

func TestFreeAddress(t *testing.T) {
	subnet := netip.MustParsePrefix("10.0.0.1/29")
	c, taken := IPAMConfig{Subnet: subnet.Masked(), Gateway: subnet.Addr()}, map[netip.Addr]bool{}
	for i := 2; i <= 6; i++ {
		a, err := c.take(netip.Addr{}, taken)
		if want := fmt.Sprintf("10.0.0.%d/29", i); err != nil || a.String() != want {
			t.Fatalf("got %s, %v; want %s", a, err, want)
		}
		taken[a.Addr()] = true
	}
	if a, err := c.take(netip.Addr{}, taken); !errdefs.IsResourceExhausted(err) {
		t.Errorf("full subnet: got %s, %v; want resource exhausted", a, err)
	}
	// Both addresses of a /31 are hosts (RFC 3021).
	point := IPAMConfig{Subnet: netip.MustParsePrefix("10.0.0.0/31"), Gateway: netip.MustParseAddr("10.0.0.1")}
	if a, err := point.take(point.Subnet.Addr(), nil); err != nil || a != point.Subnet {
		t.Errorf("%v, %v", a, err)
	}
}

func TestParseResolver(t *testing.T) {
	got := ParseResolver([]byte("# comment\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nnameserver\nsearch a.example\nsearch b.example c.example\noptions edns0 ndots:2\n"))
	want := Resolver{Nameservers: []string{"127.0.0.53", "10.1.1.1"}, Search: []string{"b.example", "c.example"}, Options: []string{"edns0", "ndots:2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got.Nameservers = reachable(got.Nameservers)
	if text, want := string(got.Bytes()), "nameserver 10.1.1.1\nsearch b.example c.example\noptions edns0 ndots:2\n"; text != want {
		t.Errorf("got %q, want %q", text, want)
	}
}

// A responder that is told to ask itself would do so without end.
func TestServers(t *testing.T) {
	got, err := Servers([]string{Responder, "192.0.2.1"})
	if want := []dns.Server{{Address: "192.0.2.1"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
