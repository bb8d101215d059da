package bundle

import (
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// Devices are moved with their addresses. Those that cannot be moved stay as they are: a bundle
// that names lo must not cut the host off from itself.
func TestMoveDevice(t *testing.T) {
	privilege.NeedRoot(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its namespaces
	space := func() (netns.NsHandle, *netlink.Handle) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		ns, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		return ns, h
	}
	ns, inside := space()
	_, host := space()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	up := func(h *netlink.Handle, name string) bool {
		t.Helper()
		l, err := h.LinkByName(name)
		must(err)
		return l.Attrs().Flags&net.FlagUp != 0
	}
	must(host.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}))
	for _, name := range []string{"lo", "a", "b"} {
		l, err := host.LinkByName(name)
		must(err)
		must(host.LinkSetUp(l))
	}
	a, err := host.LinkByName("a")
	must(err)
	address := &net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)}
	must(host.AddrAdd(a, &netlink.Addr{IPNet: address}))
	for _, tt := range [][2]string{{"lo", "lo"}, {"lo", "x"}, {"a", "lo"}, {"a", ""}, {"a", "."}, {"a", ".."}, {"a", "x/y"}, {"a", "x:y"},
		{"a", "x y"}, {"a", "x%d"}, {"a", "sixteen-letters-"}, {"missing", "x"}} {
		if err := moveDevice(host, inside, int(ns), tt[0], tt[1]); err == nil {
			t.Errorf("%s became %q", tt[0], tt[1])
		}
	}
	if !up(host, "lo") || !up(host, "a") {
		t.Fatal("what could not be moved is down")
	}
	must(moveDevice(host, inside, int(ns), "a", "eth7"))
	if !up(inside, "eth7") {
		t.Error("it is down")
	}
	moved, err := inside.LinkByName("eth7")
	must(err)
	list, err := inside.AddrList(moved, netlink.FAMILY_V4)
	if err != nil || len(list) != 1 || list[0].IPNet.String() != address.String() {
		t.Errorf("addresses %v, %v", list, err)
	}
}
