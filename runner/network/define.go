package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
)

func (m *Manager) definitions() string         { return filepath.Join(m.root, "networks") }
func (m *Manager) definition(id string) string { return filepath.Join(m.definitions(), id+".json") }

// builtins are the networks that are always there.
func (m *Manager) builtins() []Network {
	list := []Network{m.Default()}
	for name, driver := range map[string]string{"host": "host", "none": "null"} {
		list = append(list, Network{
			Name: name, ID: m.builtinID(name), Driver: driver, Scope: "local", EnableIPv4: true,
			IPAM: IPAM{Driver: "default", Config: []IPAMConfig{}}, Options: map[string]string{}, Labels: map[string]string{},
		})
	}
	return list
}

// Builtin says whether a network is always there.
func (m *Manager) Builtin(n Network) bool {
	return slices.ContainsFunc(m.builtins(), func(b Network) bool { return b.ID == n.ID })
}

// List returns all networks by name. The default bridge has its subnet if it is up.
func (m *Manager) List() ([]Network, error) {
	list, err := m.defined()
	if err != nil {
		return nil, err
	}
	for _, n := range m.builtins() {
		var br bridge
		if n.Name == "bridge" && statefile.Read(m.bridgeRecord(), &br) == nil {
			n.IPAM.Config = []IPAMConfig{{Subnet: br.Subnet.Masked(), Gateway: br.Subnet.Addr()}}
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// defined reads the networks users have defined.
func (m *Manager) defined() (list []Network, err error) {
	if m.root == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(m.definitions())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range entries {
		id, ok := strings.CutSuffix(d.Name(), ".json")
		if !ok {
			continue
		}
		var n Network
		err := statefile.Read(m.definition(id), &n)
		if errdefs.IsNotFound(err) || err == nil && n.ID != id {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Find returns the network with a name, an ID or the beginning of an ID, in this order.
func (m *Manager) Find(ref string) (Network, error) {
	list, err := m.List()
	if err != nil {
		return Network{}, err
	}
	return Among(list, ref)
}

// Among is Find in a list that has been read.
func Among(list []Network, ref string) (Network, error) {
	for _, match := range []func(Network) bool{
		func(n Network) bool { return n.ID == ref },
		func(n Network) bool { return n.Name == ref || ref == "default" && n.Name == "bridge" },
	} {
		if i := slices.IndexFunc(list, match); i >= 0 {
			return list[i], nil
		}
	}
	var found []Network
	for _, n := range list {
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return Network{}, worded(errdefs.ErrNotFound, "network %s not found", ref)
	case 1:
		return found[0], nil
	}
	return Network{}, worded(errdefs.ErrInvalidArgument, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// still refuses a network that was removed after it was looked up: its interface would stay for ever. The caller holds
// the network's lock.
func (m *Manager) still(n Network) error {
	if m.Builtin(n) {
		return nil
	}
	_, err := os.Lstat(m.definition(n.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return worded(errdefs.ErrNotFound, "network %s not found", n.Name)
	}
	return err
}

// Create defines a network. See the errors of docker's POST /networks/create: a name or
// subnet that is taken is an errdefs.ErrConflict or errdefs.ErrPermissionDenied.
func (m *Manager) Create(ctx context.Context, o CreateOptions) (Network, error) {
	return grounded(m, func() (Network, error) { return m.create(ctx, o) })
}

func (m *Manager) create(ctx context.Context, o CreateOptions) (n Network, err error) {
	if n, err = newNetwork(o); err != nil {
		return n, err
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	all, err := m.List()
	if err != nil {
		return n, err
	}
	for _, other := range all {
		if other.Name == n.Name && m.Builtin(other) {
			return n, worded(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", n.Name)
		}
		if other.Name == n.Name {
			return n, worded(errdefs.ErrConflict, "network with name %s already exists", n.Name)
		}
	}
	if err := n.inherit(o.ConfigFrom, all); err != nil {
		return n, err
	}
	if err := n.clash(all); err != nil {
		return n, err
	}
	unlockSubnets, err := m.lockSubnets()
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, unlockSubnets()) }()
	if !n.ConfigOnly {
		if err := m.chooseSubnets(&n); err != nil {
			return n, err
		}
	}
	return n, m.make(n)
}

// make writes the record, then makes the interface. What has no record is not there; an
// interface whose record's writer died is made by the first container.
func (m *Manager) make(n Network) error {
	if err := os.MkdirAll(m.definitions(), 0o700); err != nil {
		return err
	}
	if err := statefile.Write(m.definition(n.ID), n, statefile.WriteOptions{Durable: true}); err != nil {
		return err
	}
	if n.ConfigOnly {
		return nil
	}
	var err error
	if n.Driver == "bridge" {
		_, _, err = m.ensureBridge(n)
	} else {
		err = m.ensureParent(n)
	}
	if err == nil && n.Driver == "bridge" {
		var present map[string]Sandbox
		if present, err = m.sandboxes(); err == nil {
			err = m.applyRules(present, true)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making network %s: %w", n.Name, err), m.unmake(n), os.Remove(m.definition(n.ID)))
	}
	return nil
}

// unmake removes the interface of a network.
func (m *Manager) unmake(n Network) error {
	switch {
	case n.ConfigOnly:
		return nil
	case n.Driver == "bridge":
		return removeMarked(bridgeOf(n).Name, n)
	}
	return removeParent(n)
}

// Remove removes a network nobody is in.
func (m *Manager) Remove(ctx context.Context, id string) error {
	return m.alone(func() error { return m.drop(ctx, id) })
}

func (m *Manager) drop(ctx context.Context, id string) (err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	n, err := m.Find(id)
	if err != nil {
		return err
	}
	if m.Builtin(n) {
		return worded(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	if n.ConfigOnly {
		all, err := m.List()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(other Network) bool { return slices.Contains([]string{n.Name, n.ID}, other.ConfigFrom.Network) }) {
			return worded(errdefs.ErrPermissionDenied, "configuration network %q is in use", n.Name)
		}
	}
	present, err := m.sweep()
	if err != nil {
		return err
	}
	var inside []string
	for _, s := range sorted(present) {
		if ep := s.In(n.ID); ep != nil {
			inside = append(inside, fmt.Sprintf("name:%q id:%q", firstOr(ep.Names, s.ID), s.ID[:min(12, len(s.ID))]))
		}
	}
	if len(inside) > 0 {
		return worded(errdefs.ErrPermissionDenied, "error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(inside, ", "))
	}
	if err := m.unmake(n); err != nil {
		return err
	}
	if err := os.Remove(m.definition(n.ID)); err != nil {
		return err
	}
	return m.applyRules(present, true)
}

func firstOr(list []string, other string) string {
	if len(list) > 0 {
		return list[0]
	}
	return other
}

// newNetwork checks what was asked for.
func newNetwork(o CreateOptions) (Network, error) {
	n := Network{
		Name: o.Name, ID: newID(), Created: time.Now().UTC(), Scope: "local", Driver: o.Driver, EnableIPv4: true,
		IPAM:     IPAM{Driver: o.IPAMDriver, Options: o.IPAMOption, Config: slices.Clone(o.IPAM)},
		Internal: o.Internal, Attachable: o.Attachable, ConfigOnly: o.ConfigOnly, ConfigFrom: ConfigReference{o.ConfigFrom},
		Options: orEmpty(o.Options), Labels: orEmpty(o.Labels),
	}
	if n.Driver == "" {
		n.Driver = "bridge"
	}
	if n.IPAM.Driver == "" {
		n.IPAM.Driver = "default"
	}
	if o.EnableIPv4 != nil {
		n.EnableIPv4 = *o.EnableIPv4
	}
	n.EnableIPv6 = slices.ContainsFunc(o.IPAM, func(c IPAMConfig) bool { return c.Subnet.IsValid() && c.Subnet.Addr().Is6() })
	if o.EnableIPv6 != nil {
		n.EnableIPv6 = *o.EnableIPv6
	}
	switch {
	case strings.TrimSpace(n.Name) == "":
		return n, worded(errdefs.ErrInvalidArgument, "invalid name: name is empty")
	case len(n.Name) > 255:
		return n, worded(errdefs.ErrInvalidArgument, "invalid network name: %.20q... is longer than 255 bytes", n.Name)
	case strings.ContainsFunc(n.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return n, worded(errdefs.ErrInvalidArgument, "invalid network name: %q", n.Name)
	case n.Driver == "host" || n.Driver == "null":
		return n, worded(errdefs.ErrPermissionDenied, "only one instance of %q network is allowed", n.Driver)
	case n.Driver != "bridge" && n.Driver != "macvlan" && n.Driver != "ipvlan":
		return n, worded(errdefs.ErrNotFound, "plugin %q not found", n.Driver)
	case n.IPAM.Driver != "default":
		return n, worded(errdefs.ErrNotFound, "plugin %q not found", n.IPAM.Driver)
	case o.Ingress:
		return n, worded(errdefs.ErrPermissionDenied, "ingress networks are of swarms, which are not there")
	case !n.EnableIPv4 && !n.EnableIPv6:
		return n, worded(errdefs.ErrInvalidArgument, "IPv4 or IPv6 must be enabled")
	}
	return n, n.check()
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

// check refuses addresses that do not fit each other, and options that are wrong.
func (n *Network) check() error {
	subnets := map[bool]int{} // of IPv6, or not
	for i := range n.IPAM.Config {
		c := &n.IPAM.Config[i]
		if !c.Subnet.IsValid() {
			if c.Gateway.IsValid() || c.IPRange.IsValid() || len(c.AuxiliaryAddresses) > 0 {
				return worded(errdefs.ErrInvalidArgument, "invalid network config:\nno matching subnet for gateway, range or aux-address")
			}
			continue
		}
		six := c.Subnet.Addr().Is6()
		if subnets[six]++; subnets[six] > 1 && n.Driver == "bridge" && !n.ConfigOnly {
			return worded(errdefs.ErrPermissionDenied, "bridge driver doesn't support multiple subnets")
		}
		if c.Subnet.Addr().IsUnspecified() { // only a size is asked for
			switch {
			case c.Gateway.IsValid() || c.IPRange.IsValid() || len(c.AuxiliaryAddresses) > 0:
				return worded(errdefs.ErrInvalidArgument, "invalid network config:\nno matching subnet for gateway, range or aux-address")
			case c.Subnet.Bits() != 0 && c.Subnet.Bits() != 24+40*b2i(c.Subnet.Addr().Is6()):
				return worded(errdefs.ErrInvalidArgument, "invalid network config:\ninvalid subnet %s: those that are chosen are a /24, or a /64 of IPv6", c.Subnet)
			}
			c.Subnet = netip.Prefix{}
			continue
		}
		switch {
		case c.Subnet != c.Subnet.Masked():
			return worded(errdefs.ErrInvalidArgument, "invalid network config:\ninvalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		case c.Subnet.Addr().Is4() && !n.EnableIPv4, c.Subnet.Addr().Is6() && !n.EnableIPv6:
			return worded(errdefs.ErrInvalidArgument, "invalid network config:\nsubnet %s is of a protocol that is not enabled", c.Subnet)
		case c.IPRange.IsValid() && (!c.Subnet.Contains(c.IPRange.Addr()) || c.IPRange.Bits() < c.Subnet.Bits()):
			return worded(errdefs.ErrInvalidArgument, "invalid network config:\ninvalid ip-range %s: it is not within subnet %s", c.IPRange, c.Subnet)
		case c.Gateway.IsValid() && !c.Subnet.Contains(c.Gateway):
			return worded(errdefs.ErrInvalidArgument, "invalid network config:\ninvalid gateway %s: parent subnet %s doesn't contain this address", c.Gateway, c.Subnet)
		}
		for name, aux := range c.AuxiliaryAddresses {
			if !c.Subnet.Contains(aux) {
				return worded(errdefs.ErrInvalidArgument, "invalid network config:\ninvalid auxiliary address %s (%s): parent subnet %s doesn't contain this address", name, aux, c.Subnet)
			}
		}
		for _, other := range n.IPAM.Config[:i] {
			if other.Subnet.IsValid() && other.Subnet.Overlaps(c.Subnet) {
				return worded(errdefs.ErrInvalidArgument, "invalid network config:\nsubnets %s and %s overlap", other.Subnet, c.Subnet)
			}
		}
	}
	return n.checkOptions()
}

func (n *Network) checkOptions() error {
	for key, value := range n.Options {
		invalid := false
		switch key {
		case "com.docker.network.bridge.name":
			invalid = !validInterface(value)
		case "com.docker.network.container_iface_prefix":
			invalid = !validInterface(value + "00")
		case "com.docker.network.driver.mtu":
			mtu, err := strconv.Atoi(value)
			invalid = err != nil || mtu < 0 || mtu > 65535
		case gatewayMode4, gatewayMode6:
			invalid = !slices.Contains([]string{"", "nat", modeUnprotected, modeRouted, modeIsolated}, value)
			if value == modeIsolated && !n.Internal {
				return worded(errdefs.ErrInvalidArgument, "gateway mode 'isolated' can only be used for an internal network")
			}
		case enableICC, enableMasquerade, inhibitIPv4:
			_, err := strconv.ParseBool(value)
			invalid = err != nil
		case "com.docker.network.bridge.host_binding_ipv4":
			_, err := netip.ParseAddr(value)
			invalid = err != nil
		case hostIPv4, hostIPv6:
			a, err := netip.ParseAddr(value)
			invalid = err != nil || a.Is4() != (key == hostIPv4)
		case trustedInterfaces:
			invalid = slices.ContainsFunc(strings.Split(value, ":"), func(name string) bool { return !validInterface(name) })
		case "parent":
			invalid = !validInterface(value)
		}
		if invalid {
			return worded(errdefs.ErrInvalidArgument, "invalid value %q for network option %s", value, key)
		}
	}
	if n.Driver == "macvlan" || n.Driver == "ipvlan" {
		_, err := linkOf(*n, linkAttrs())
		return err
	}
	return nil
}

// inherit takes the configuration of a network that is only that.
func (n *Network) inherit(from string, all []Network) error {
	if from == "" {
		return nil
	}
	i := slices.IndexFunc(all, func(o Network) bool { return o.Name == from || o.ID == from })
	if i < 0 {
		return worded(errdefs.ErrNotFound, "configuration network %q does not exist", from)
	}
	c := all[i]
	if !c.ConfigOnly {
		return worded(errdefs.ErrPermissionDenied, "network %q is not a configuration only network", from)
	}
	if len(n.IPAM.Config) > 0 || len(n.Options) > 0 {
		return worded(errdefs.ErrPermissionDenied, "user specified configurations are not supported if the network depends on a configuration network")
	}
	n.IPAM, n.Options, n.EnableIPv4, n.EnableIPv6, n.Internal = c.IPAM, maps.Clone(c.Options), c.EnableIPv4, c.EnableIPv6, c.Internal
	return nil
}

// clash refuses what another network has.
func (n *Network) clash(all []Network) error {
	if n.ConfigOnly {
		return nil
	}
	for _, other := range all {
		if other.ConfigOnly {
			continue
		}
		if n.Driver == "bridge" && other.Driver == "bridge" && bridgeOf(*n).Name == bridgeOf(other).Name {
			return worded(errdefs.ErrPermissionDenied, "conflicts with network %s (%s): bridge name %s", other.ID, other.Name, bridgeOf(other).Name)
		}
		for _, a := range n.IPAM.Config {
			for _, b := range other.IPAM.Config {
				if a.Subnet.IsValid() && b.Subnet.IsValid() && a.Subnet.Overlaps(b.Subnet) {
					return worded(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space: %s of network %s", b.Subnet, other.Name)
				}
			}
		}
	}
	return nil
}

// chooseSubnets fills in the subnets and gateways that were left open.
func (m *Manager) chooseSubnets(n *Network) error {
	n.IPAM.Config = slices.DeleteFunc(n.IPAM.Config, func(c IPAMConfig) bool { return !c.Subnet.IsValid() })
	used, _, err := m.used()
	if err != nil {
		return err
	}
	has := func(six bool) bool {
		return slices.ContainsFunc(n.IPAM.Config, func(c IPAMConfig) bool { return c.Subnet.Addr().Is6() == six })
	}
	if n.EnableIPv4 && !has(false) {
		subnet, err := freeSubnet(used)
		if err != nil {
			return err
		}
		n.IPAM.Config = append(n.IPAM.Config, IPAMConfig{Subnet: subnet.Masked()})
	}
	if n.EnableIPv6 && !has(true) {
		prefix, err := m.ownPrefix()
		if err != nil {
			return err
		}
		subnet, err := freeSubnet6(prefix, used)
		if err != nil {
			return err
		}
		n.IPAM.Config = append(n.IPAM.Config, IPAMConfig{Subnet: subnet.Masked()})
	}
	for i := range n.IPAM.Config {
		c := &n.IPAM.Config[i]
		if c.Gateway.IsValid() || n.Driver == "bridge" && !n.hasGateway(c.Subnet) {
			continue
		}
		within := c.Subnet
		if c.IPRange.IsValid() {
			within = c.IPRange
		}
		first, err := IPAMConfig{Subnet: c.Subnet, IPRange: within, AuxiliaryAddresses: c.AuxiliaryAddresses}.take(netip.Addr{}, nil)
		if err != nil {
			return err
		}
		c.Gateway = first.Addr()
	}
	return nil
}

// ownPrefix returns the host's own unique local prefix, a random /48 (RFC 4193, section 3.2.2).
func (m *Manager) ownPrefix() (p netip.Prefix, err error) {
	path := filepath.Join(m.definitions(), "prefix6")
	if err := statefile.Read(path, &p); !errdefs.IsNotFound(err) {
		return p, err
	}
	b := [16]byte{0xfd}
	rand.Read(b[1:6])
	p = netip.PrefixFrom(netip.AddrFrom16(b), 48)
	if err := os.MkdirAll(m.definitions(), 0o700); err != nil {
		return p, err
	}
	return p, statefile.Write(path, p, statefile.WriteOptions{Durable: true})
}
