package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/userns"
)

// subnetLock keeps two stores on one host from choosing the same subnet at once.
const subnetLock = "/run/teu-subnet.lock"

// bridge is a bridge as it is on this host.
type bridge struct {
	Name     string
	Subnet   netip.Prefix // the gateway's address, or the subnet's if there is none, with the prefix length; zero without IPv4
	Subnet6  netip.Prefix `json:",omitzero"`
	Bare     bool         `json:",omitempty"` // the host has no IPv4 address in it
	Bare6    bool         `json:",omitempty"`
	MTU      int
	Internal bool       `json:",omitempty"`
	Closed   bool       `json:",omitempty"` // no traffic between its containers
	Plain    bool       `json:",omitempty"` // no masquerading
	Mode     string     `json:",omitempty"` // of the gateway
	Mode6    string     `json:",omitempty"`
	Source   netip.Addr `json:",omitzero"` // of what goes out; zero is that of the interface it goes out by
	Source6  netip.Addr `json:",omitzero"`
	Trusted  []string   `json:",omitempty"` // interfaces of the host behind which published ports are reached inside
}

// Modes of a gateway beside docker's default, nat.
const (
	modeRouted      = "routed"          // no address is rewritten, and a published port is open at the container's
	modeUnprotected = "nat-unprotected" // all ports of the containers are open to who has a route to them
	modeIsolated    = "isolated"        // the host has no address in the network
)

// A family is what a bridge has of one version of IP.
type family struct {
	subnet netip.Prefix // not masked
	mode   string       // of the gateway
	source netip.Addr
}

// families lists the one or two that a bridge has.
func (br bridge) families() []family {
	list := []family{{br.Subnet, br.Mode, br.Source}, {br.Subnet6, br.Mode6, br.Source6}}
	return slices.DeleteFunc(list, func(f family) bool { return !f.subnet.IsValid() })
}

// mode is that of the gateway for an address.
func (br bridge) mode(a netip.Addr) string {
	if a.Is6() {
		return br.Mode6
	}
	return br.Mode
}

// Default is the network of containers that ask for none.
func (m *Manager) Default() Network {
	return Network{
		Name: "bridge", ID: m.builtinID("bridge"), Driver: "bridge", Scope: "local", EnableIPv4: true,
		IPAM:   IPAM{Driver: "default"},
		Labels: map[string]string{}, Options: map[string]string{
			"com.docker.network.bridge.default_bridge": "true", enableICC: "true",
			enableMasquerade: "true", "com.docker.network.bridge.name": m.name,
		},
	}
}

func (m *Manager) builtinID(name string) string {
	sum := sha256.Sum256([]byte(m.runRoot + "\x00" + name))
	return hex.EncodeToString(sum[:])
}

// Options of docker's bridge driver.
const (
	enableICC        = "com.docker.network.bridge.enable_icc"
	enableMasquerade = "com.docker.network.bridge.enable_ip_masquerade"

	// The host's own addresses in a network.
	gatewayMode4 = "com.docker.network.bridge.gateway_mode_ipv4"
	gatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
	inhibitIPv4  = "com.docker.network.bridge.inhibit_ipv4"
	hostIPv4     = "com.docker.network.host_ipv4"
	hostIPv6     = "com.docker.network.host_ipv6"

	trustedInterfaces = "com.docker.network.bridge.trusted_host_interfaces" // separated by colons
)

// is says whether an option has a truth value, in any of the words docker takes, such as 1 and False.
// One that is not given has none.
func (n Network) is(option string, want bool) bool {
	b, err := strconv.ParseBool(n.Options[option])
	return err == nil && b == want
}

// hasGateway says whether an address of a subnet is kept for the host. It is not where nothing
// would use it, so that a /31 has room for two containers.
func (n Network) hasGateway(subnet netip.Prefix) bool {
	if subnet.Addr().Is6() {
		return n.Options[gatewayMode6] != modeIsolated
	}
	return n.Options[gatewayMode4] != modeIsolated && !(n.Internal && n.is(inhibitIPv4, true))
}

// bridgeOf is the bridge of a network that is defined.
func bridgeOf(n Network) bridge {
	br := bridge{Name: n.Options["com.docker.network.bridge.name"], Internal: n.Internal}
	if br.Name == "" {
		br.Name = "br-" + n.ID[:12]
	}
	for _, c := range n.IPAM.Config {
		gateway := netip.PrefixFrom(c.Gateway, c.Subnet.Bits())
		if !c.Gateway.IsValid() {
			gateway = c.Subnet
		}
		if c.Subnet.Addr().Is4() && !br.Subnet.IsValid() {
			br.Subnet = gateway
		} else if c.Subnet.Addr().Is6() && !br.Subnet6.IsValid() {
			br.Subnet6 = gateway
		}
	}
	br.MTU, _ = strconv.Atoi(n.Options["com.docker.network.driver.mtu"])
	br.Closed = n.is(enableICC, false)
	br.Plain = n.is(enableMasquerade, false)
	br.Mode, br.Mode6 = n.Options[gatewayMode4], n.Options[gatewayMode6]
	br.Bare = n.is(inhibitIPv4, true) || br.Mode == modeIsolated
	br.Bare6 = br.Mode6 == modeIsolated
	br.Source, _ = netip.ParseAddr(n.Options[hostIPv4])
	br.Source6, _ = netip.ParseAddr(n.Options[hostIPv6])
	br.Trusted = strings.FieldsFunc(n.Options[trustedInterfaces], func(r rune) bool { return r == ':' })
	return br
}

// ensureBridge returns the bridge of a network and makes it if it is not there; the rules
// are then to be made again. The caller holds the network's lock.
func (m *Manager) ensureBridge(n Network) (br bridge, made bool, err error) {
	if n.ID == m.Default().ID {
		return m.ensureDefault()
	}
	br = bridgeOf(n)
	if link, err := netlink.LinkByName(br.Name); err == nil {
		if link.Type() != "bridge" {
			return br, false, worded(errdefs.ErrPermissionDenied, "interface %s is there and is no bridge", br.Name)
		}
		return br, false, nil // ours, or the administrator's
	}
	if br.MTU == 0 {
		if _, br.MTU, err = routes(); err != nil {
			return br, false, err
		}
	}
	if err := m.makeBridge(br); err != nil {
		return br, false, err
	}
	return br, true, mark(br.Name, n)
}

// mark notes on an interface that it was made for a network, and goes with it. One that
// the administrator has made does not.
func mark(name string, n Network) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetAlias(link, markOf(n))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("marking interface %s: %w", name, err), removeLink(name))
	}
	return nil
}

func markOf(n Network) string { return "teu " + n.ID }

// removeMarked removes an interface that was made for a network.
func removeMarked(name string, n Network) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing interface %s: %w", name, err)
	}
	// A name with the network's ID is nobody else's; its maker may have died before the mark.
	if link.Attrs().Alias != markOf(n) && !strings.HasSuffix(name, n.ID[:12]) {
		return nil
	}
	return removeLink(name)
}

// ensureDefault returns the default bridge, whose subnet is chosen anew at every boot.
func (m *Manager) ensureDefault() (br bridge, made bool, err error) {
	err = statefile.Read(m.bridgeRecord(), &br)
	if err != nil && !errdefs.IsNotFound(err) {
		return br, false, err
	}
	if err == nil {
		there, err := exists(m.name)
		if err != nil || there {
			return br, false, err
		}
	}
	unlock, err := m.lockSubnets()
	if err != nil {
		return br, false, err
	}
	br, err = m.makeDefault()
	_ = removeOrphans() // of others; what is left is for the next who comes
	return br, true, errors.Join(err, unlock())
}

// lockSubnets waits for the host-wide lock on choosing a subnet.
func (m *Manager) lockSubnets() (func() error, error) {
	path := subnetLock
	if m.Ground() != "" { // where nobody else chooses
		path = filepath.Join(m.dir(), "subnet.lock")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { // images need not have /run
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("flock %s: %w", path, err)
	}
	return f.Close, nil
}

func (m *Manager) makeDefault() (bridge, error) {
	// A bridge of our name without a record is left from a crash: start afresh.
	if err := removeLink(m.name); err != nil {
		return bridge{}, err
	}
	used, mtu, err := m.used()
	if err != nil {
		return bridge{}, err
	}
	subnet, err := freeSubnet(used)
	if err != nil {
		return bridge{}, err
	}
	br := bridge{Name: m.name, Subnet: subnet, MTU: mtu}
	if err := m.makeBridge(br); err != nil {
		return bridge{}, err
	}
	if link, err := netlink.LinkByName(m.name); err == nil {
		_ = netlink.LinkSetAlias(link, markOfRoot(m.runRoot)) // without it, it stays when runRoot goes
	}
	if err := statefile.Write(m.bridgeRecord(), br, statefile.WriteOptions{}); err != nil {
		return bridge{}, errors.Join(err, removeLink(m.name))
	}
	return br, nil
}

// used lists the subnets that cannot be taken: of networks that are defined and of routes.
func (m *Manager) used() (list []netip.Prefix, mtu int, err error) {
	list, mtu, err = routes()
	if err != nil {
		return nil, 0, err
	}
	defined, err := m.defined()
	for _, n := range defined {
		for _, c := range n.IPAM.Config {
			list = append(list, c.Subnet)
		}
	}
	return list, mtu, err
}

// makeBridge makes the interface with its addresses. Rules are the caller's.
func (m *Manager) makeBridge(br bridge) (err error) {
	if err := Possible(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = br.Name, br.MTU
	// The address of a bridge changes with its ports unless it is set.
	subnet := br.Subnet
	if !subnet.IsValid() {
		subnet = br.Subnet6
	}
	attrs.HardwareAddr = macOf(subnet.Addr())
	if br.Bare || br.Bare6 {
		attrs.HardwareAddr[1]++ // a container may have the address, and so its hardware address
	}
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("adding it: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeLink(br.Name))
		}
	}()
	if br.Subnet6.IsValid() && !br.Bare6 {
		err = enableForwarding6(br.Name)
	} else {
		err = disableIPv6(br.Name)
	}
	if err == nil && br.Subnet.IsValid() && !br.Bare {
		err = addAddress(netlink.AddrAdd, link, br.Subnet)
	}
	if err == nil && br.Subnet6.IsValid() && !br.Bare6 {
		err = addAddress(netlink.AddrAdd, link, br.Subnet6)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err == nil {
		err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	}
	return err
}

// addAddress gives a link an address. One of IPv6 is usable at once: nobody else can have it.
func addAddress(add func(netlink.Link, *netlink.Addr) error, link netlink.Link, p netip.Prefix) error {
	addr, err := netlink.ParseAddr(p.String())
	if err != nil {
		return err
	}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := add(link, addr); err != nil {
		return fmt.Errorf("adding address %s to %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

// routes returns the destinations this host has routes to, and the MTU of its uplink.
func routes() (used []netip.Prefix, mtu int, err error) {
	mtu = 1500
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, 0, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range list {
		if r.Dst != nil && r.Dst.IP != nil {
			ones, _ := r.Dst.Mask.Size()
			if a, ok := netip.AddrFromSlice(r.Dst.IP); ok && ones > 0 {
				used = append(used, netip.PrefixFrom(a.Unmap(), ones))
				continue
			}
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			mtu = min(mtu, link.Attrs().MTU)
		}
	}
	return used, mtu, nil
}

// Possible says why there can be no networks but "host" and "none" here; nil: there can.
func Possible() error {
	if userns.ProcCovered() {
		return fmt.Errorf("/proc/sys is read-only: use the network host or none, or start the container that this is in "+
			"with --security-opt systempaths=unconfined or --privileged: %w", unix.EROFS)
	}
	return nil
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

// enableForwarding6 lets the host route IPv6. An uplink that has learned its way out from
// router advertisements keeps listening to them (accept_ra 2, ip-sysctl.rst).
func enableForwarding6(name string) error {
	const conf = "/proc/sys/net/ipv6/conf/"
	if b, err := os.ReadFile(conf + "all/forwarding"); err == nil && string(b) == "0\n" {
		names, err := os.ReadDir(conf)
		if err != nil {
			return err
		}
		for _, d := range names {
			path := filepath.Join(conf, d.Name(), "accept_ra")
			if b, err := os.ReadFile(path); err == nil && string(b) == "1\n" && d.Name() != "all" && d.Name() != "lo" {
				if err := os.WriteFile(path, []byte("2"), 0); err != nil {
					return err
				}
			}
		}
		if err := os.WriteFile(conf+"all/forwarding", []byte("1"), 0); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(conf+name+"/disable_ipv6", []byte("0"), 0),
		os.WriteFile(conf+name+"/accept_ra", []byte("0"), 0),
		// Nobody else has its link-local address. Until that is found out no neighbour is asked for what comes from elsewhere.
		os.WriteFile(conf+name+"/accept_dad", []byte("0"), 0),
	)
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

// bridges lists the bridges that are up: the default one and those of networks.
func (m *Manager) bridges() ([]bridge, error) {
	var list []bridge
	var br bridge
	err := statefile.Read(m.bridgeRecord(), &br)
	if err == nil {
		list = append(list, br)
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	defined, err := m.defined()
	if err != nil {
		return nil, err
	}
	for _, n := range defined {
		if n.Driver == "bridge" && !n.ConfigOnly {
			list = append(list, bridgeOf(n))
		}
	}
	return list, nil
}

// Repair makes the rules again if somebody has flushed them, and the bridges that are gone.
func (m *Manager) Repair(ctx context.Context) error {
	return m.alone(func() error { return m.repair(ctx) })
}

func (m *Manager) repair(ctx context.Context) (err error) {
	// A keeper that has not ended yet asks for this when a reset has taken the rules away: the lock would bring back the
	// directories that the reset has just removed. Who attaches something makes the rules.
	if present, err := m.sandboxes(); err != nil || len(present) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sandboxes()
	if err != nil || len(present) == 0 {
		return err
	}
	return m.applyRules(present, true)
}
