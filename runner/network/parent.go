package network

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Networks of macvlan and ipvlan hang on an interface of the host, their parent. Without
// one they hang on a dummy, which leads nowhere; eth0.10 is VLAN 10 of eth0 and made if
// it is not there.

// parentOf is the name of the parent, and whether it is ours to make.
func parentOf(n Network) (name string, dummy bool) {
	if p := n.Options["parent"]; p != "" {
		return p, false
	}
	return "dm-" + n.ID[:12], true
}

// ensureParent makes the parent if it can be made.
func (m *Manager) ensureParent(n Network) error {
	name, dummy := parentOf(n)
	_, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if !errors.As(err, &missing) {
		return err
	}
	attrs := linkAttrs()
	attrs.Name = name
	if dummy {
		return makeDummy(attrs)
	}
	base, tag, ok := strings.Cut(name, ".")
	vlan, err := strconv.ParseUint(tag, 10, 12)
	if !ok || err != nil {
		return worded(errdefs.ErrInvalidArgument, "the parent interface %s was not found on this host", name)
	}
	under, err := netlink.LinkByName(base)
	if err != nil {
		return fmt.Errorf("parent interface %s: %w: %w", base, err, errdefs.ErrInvalidArgument)
	}
	attrs.ParentIndex = under.Attrs().Index
	link := &netlink.Vlan{LinkAttrs: attrs, VlanId: int(vlan), VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("adding %s: %w", name, err)
	}
	if err := mark(name, n); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// makeDummy makes an interface that leads nowhere. A kernel without such gets a pair of
// which nobody uses the other end.
func makeDummy(attrs netlink.LinkAttrs) error {
	var link netlink.Link = &netlink.Dummy{LinkAttrs: attrs}
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		attrs.Flags = flagUp
		link = &netlink.Veth{LinkAttrs: attrs, PeerName: "dp" + strings.TrimPrefix(attrs.Name, "dm")}
		if err = netlink.LinkAdd(link); err == nil {
			err = bringUp("dp" + strings.TrimPrefix(attrs.Name, "dm"))
		}
	}
	if err != nil {
		return fmt.Errorf("adding %s: %w", attrs.Name, err)
	}
	return netlink.LinkSetUp(link)
}

func bringUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// removeParent removes what ensureParent has made.
func removeParent(n Network) error {
	name, dummy := parentOf(n)
	if dummy {
		return removeLink(name)
	}
	return removeMarked(name, n)
}

// linkOf is the container's interface on the parent.
func linkOf(n Network, attrs netlink.LinkAttrs) (netlink.Link, error) {
	if n.Driver == "macvlan" {
		mode := map[string]netlink.MacvlanMode{
			"": netlink.MACVLAN_MODE_BRIDGE, "bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
			"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
		}
		value, ok := mode[n.Options["macvlan_mode"]]
		if !ok {
			return nil, worded(errdefs.ErrInvalidArgument, "unknown macvlan mode: %s", n.Options["macvlan_mode"])
		}
		return &netlink.Macvlan{LinkAttrs: attrs, Mode: value}, nil
	}
	modes := map[string]netlink.IPVlanMode{"": netlink.IPVLAN_MODE_L2, "l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S}
	flags := map[string]netlink.IPVlanFlag{"": netlink.IPVLAN_FLAG_BRIDGE, "bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE, "vepa": netlink.IPVLAN_FLAG_VEPA}
	mode, ok := modes[n.Options["ipvlan_mode"]]
	flag, known := flags[n.Options["ipvlan_flag"]]
	if !ok || !known {
		return nil, worded(errdefs.ErrInvalidArgument, "unknown ipvlan mode or flag: %s %s", n.Options["ipvlan_mode"], n.Options["ipvlan_flag"])
	}
	return &netlink.IPVlan{LinkAttrs: attrs, Mode: mode, Flag: flag}, nil
}

// routed says whether an ipvlan network is of a mode without neighbours: the default route
// is the device itself.
func routed(n Network) bool {
	mode := n.Options["ipvlan_mode"]
	return n.Driver == "ipvlan" && (mode == "l3" || mode == "l3s")
}

func linkAttrs() netlink.LinkAttrs { return netlink.NewLinkAttrs() }
