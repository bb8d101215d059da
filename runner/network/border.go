package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The border of a user's network is a pair of interfaces: one in the ground, with its
// default routes, and one in a namespace of its own, whose frames the outlet reads and
// writes. Nobody else holds that namespace: when the outlet ends, the pair is gone.

const (
	borderName = "outlet"
	borderMTU  = 1500
)

// Addresses at the border are seen by nobody else: 192.0.0.0/29 is for such links, RFC 7335.
// The ground's own is the one after the gateway's.
var (
	gateway4 = netip.MustParsePrefix("192.0.0.1/29")
	gateway6 = netip.MustParsePrefix("fd74:6575:6f75:74::1/64")
)

// makeBorder makes the pair, anew if there is one, and returns the socket of the far end; packet(7).
func makeBorder(ground string, gateways []netip.Prefix) (packets *os.File, err error) {
	err = apart(func() error {
		runtime.LockOSThread() // never unlocked: the thread ends in another network
		near, err := os.Open(ground)
		if err != nil {
			return err
		}
		defer near.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		far, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer far.Close()
		if err := unix.Setns(int(near.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		if err := makePair(int(far.Fd()), gateways); err != nil {
			return err
		}
		if err := unix.Setns(int(far.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		packets, err = openFarEnd()
		return errors.Join(err, unix.Setns(int(near.Fd()), unix.CLONE_NEWNET)) // the process's first thread does not end, and would keep the far end
	})
	return packets, err
}

// makePair makes the interfaces from the ground, and leads what has no other way there.
func makePair(far int, gateways []netip.Prefix) error {
	if old, err := netlink.LinkByName(borderName); err == nil { // of an outlet that has just ended
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("removing the old border: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = borderName, borderMTU
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: borderName, PeerNamespace: netlink.NsFd(far)}); err != nil {
		return fmt.Errorf("making the interface %s: %w", borderName, err)
	}
	link, err := netlink.LinkByName(borderName)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up: %w", borderName, err)
	}
	for _, g := range gateways {
		own := &net.IPNet{IP: g.Addr().Next().AsSlice(), Mask: net.CIDRMask(g.Bits(), g.Addr().BitLen())}
		err := netlink.AddrAdd(link, &netlink.Addr{IPNet: own, Flags: unix.IFA_F_NODAD})
		if g.Addr().Is6() && errors.Is(err, unix.EACCES) { // disable_ipv6, which new namespaces may have from the host
			continue
		}
		if err != nil {
			return fmt.Errorf("setting the address %s: %w", own, err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("setting the route by %s: %w", g.Addr(), err)
		}
	}
	return nil
}

// openFarEnd returns a socket for all frames that come in at the far end. Large segments and
// checksums that nobody has reckoned pass as they are: PACKET_VNET_HDR.
func openFarEnd() (*os.File, error) {
	link, err := netlink.LinkByName(borderName)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bringing the far end up: %w", err)
	}
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	packets := os.NewFile(uintptr(fd), "packets")
	for option, value := range map[int]int{unix.PACKET_VNET_HDR: 1, unix.PACKET_IGNORE_OUTGOING: 1} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, value); err != nil {
			packets.Close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // as far as net.core.rmem_max allows
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}); err != nil {
		packets.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return packets, nil
}
