package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// subnetLock keeps two stores on one host from choosing the same subnet at once.
const subnetLock = "/run/teu-subnet.lock"

// bridge is what is recorded of the bridge.
type bridge struct {
	Name   string
	Subnet netip.Prefix // the gateway's address with the prefix length
	MTU    int
}

// ensureBridge returns the bridge of m and makes it if it is not there. The caller holds
// the network's lock.
func (m *Manager) ensureBridge() (bridge, error) {
	var br bridge
	err := statefile.Read(m.bridgeRecord(), &br)
	if err != nil && !errdefs.IsNotFound(err) {
		return bridge{}, err
	}
	if err == nil {
		if _, err := netlink.LinkByName(m.name); err == nil {
			return br, nil
		}
	}
	unlock, err := lockSubnets()
	if err != nil {
		return bridge{}, err
	}
	br, err = m.makeBridge()
	return br, errors.Join(err, unlock())
}

// lockSubnets waits for the host-wide lock on choosing a subnet.
func lockSubnets() (func() error, error) {
	f, err := os.OpenFile(subnetLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("flock %s: %w", subnetLock, err)
	}
	return f.Close, nil
}

func (m *Manager) makeBridge() (bridge, error) {
	// A bridge of our name without a record is left from a crash: start afresh.
	if err := removeLink(m.name); err != nil {
		return bridge{}, err
	}
	used, mtu, err := routes()
	if err != nil {
		return bridge{}, err
	}
	subnet, err := freeSubnet(used)
	if err != nil {
		return bridge{}, err
	}
	br := bridge{Name: m.name, Subnet: subnet, MTU: mtu}
	attrs := netlink.NewLinkAttrs()
	// The address of a bridge changes with its ports unless it is set.
	attrs.Name, attrs.MTU, attrs.HardwareAddr = m.name, mtu, macOf(subnet.Addr())
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return bridge{}, fmt.Errorf("adding it: %w", err)
	}
	addr, err := netlink.ParseAddr(subnet.String())
	if err == nil {
		err = netlink.AddrAdd(link, addr)
	}
	if err == nil {
		err = disableIPv6(m.name)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err == nil {
		err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	}
	if err == nil {
		err = m.applyRules(br, nil, true)
	}
	if err == nil {
		err = statefile.Write(m.bridgeRecord(), br, statefile.WriteOptions{})
	}
	if err != nil {
		return bridge{}, errors.Join(err, removeLink(m.name))
	}
	return br, nil
}

// routes returns the destinations this host has routes to, and the MTU of its uplink.
func routes() (used []netip.Prefix, mtu int, err error) {
	mtu = 1500
	list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, 0, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range list {
		if r.Dst != nil && r.Dst.IP != nil {
			ones, _ := r.Dst.Mask.Size()
			if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ones > 0 {
				used = append(used, netip.PrefixFrom(a, ones))
				continue
			}
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			mtu = min(mtu, link.Attrs().MTU)
		}
	}
	return used, mtu, nil
}

// disableIPv6 turns IPv6 off on an interface of the current namespace, so that a network
// that is said to be IPv4 only is (CVE-2024-32473).
func disableIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// removeLink deletes an interface; a missing one is no error.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("removing interface %s: %w", name, err)
	}
	return nil
}
