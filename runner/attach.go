package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// attachNetwork gives the container its place in its networks and returns what its spec
// says about the namespace.
func (e *Engine) attachNetwork(ctx context.Context, c *Container, user string, p *plan) (netns string, err error) {
	if other := c.Options.networkContainer(); other != "" {
		return e.shareNetwork(ctx, c, other)
	}
	switch mode := c.Options.networkMode(); mode {
	case "host":
		return "host", nil
	case "none":
		// Whoever shares its namespace keeps it while the container is down.
		return e.network.Resume(ctx, c.ID)
	}
	o, err := e.networkOptions(c)
	if err != nil {
		return "", err
	}
	if c.UserIDs != nil {
		o.UIDs, o.GIDs = c.UserIDs.UIDs, c.UserIDs.GIDs
	}
	if user != "" {
		if o.User, err = os.Open(user); err != nil {
			return "", err
		}
		defer o.User.Close()
	}
	p.sandbox, err = e.network.Attach(ctx, c.ID, o)
	if errors.Is(err, errdefs.ErrAlreadyExists) { // of a run whose finishing failed
		if err = e.network.Detach(ctx, c.ID); err == nil {
			p.sandbox, err = e.network.Attach(ctx, c.ID, o)
		}
	}
	if err != nil {
		return "", fmt.Errorf("failed to set up container networking: %w", err)
	}
	if p.sandbox.Main() != nil {
		if err := e.network.OpenOutlet(ctx); err != nil {
			p.warnings = append(p.warnings, err.Error())
		}
	}
	return p.sandbox.NetNS, nil
}

// ownNetwork says whether the container's network namespace was made for it, and so belongs
// to its user namespace, if it has one.
func (c *Container) ownNetwork() bool {
	return c.Options.networkContainer() == "" && c.Options.networkMode() != "host"
}

func (e *Engine) networkOptions(c *Container) (o network.Options, err error) {
	if o.Networks, err = e.attachments(c); err != nil {
		return o, err
	}
	if len(o.Networks) > 1 || len(o.Networks) == 1 && o.Networks[0].Network.Name != "bridge" {
		if o.Servers, err = network.Servers(c.Options.DNS); err != nil {
			return o, err
		}
		for i := range o.Servers { // the host's are reached from the host, whatever way out there is
			o.Servers[i].Host = o.Servers[i].Host || len(c.Options.DNS) == 0 && e.network.Ground() != ""
		}
	}
	o.Ports = c.ports()
	for i := range o.Networks { // docker's network option for where ports are published
		address, err := netip.ParseAddr(o.Networks[i].Network.Options["com.docker.network.bridge.host_binding_ipv4"])
		for j := range o.Ports {
			if err == nil && !o.Ports[j].HostIP.IsValid() {
				o.Ports[j].HostIP = address
			}
		}
	}
	return o, nil
}

// shareNetwork puts a container into the namespace of another, for as long as it runs.
func (e *Engine) shareNetwork(ctx context.Context, c *Container, ref string) (netns string, err error) {
	other, err := e.Get(ctx, ref)
	if err != nil {
		return "", err
	}
	if other.ID == c.ID {
		return "", worded(errdefs.ErrInvalidArgument, "cannot join own network namespace")
	}
	if !other.State.Alive() {
		return "", worded(errdefs.ErrConflict, "cannot join network namespace of a non running container: container %s is %s", other.Name, other.State.Status)
	}
	if other.Options.networkMode() == "host" {
		return "host", nil
	}
	if further := other.Options.networkContainer(); further != "" {
		return e.shareNetwork(ctx, c, further)
	}
	netns, err = e.network.Share(ctx, other.ID, other.State.Init, c.ID)
	if errdefs.IsNotFound(err) { // by now
		err = worded(errdefs.ErrConflict, "cannot join network namespace of a non running container: container %s is %s", other.Name, keeper.Exited)
	}
	return netns, err
}

// ports are the ports to publish, with -P those the image exposes too.
func (c *Container) ports() []network.Port {
	ports := slices.Clone(c.Options.Ports)
	if !c.Options.PublishAll {
		return ports
	}
	for _, exposed := range append(slices.Sorted(maps.Keys(c.ImageConfig.ExposedPorts)), c.Options.Expose...) {
		number, protocol, _ := strings.Cut(exposed, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			continue
		}
		if protocol == "" {
			protocol = "tcp"
		}
		same := func(p network.Port) bool { return p.Container == uint16(n) && p.Protocol == protocol }
		if !slices.ContainsFunc(ports, same) {
			ports = append(ports, network.Port{Protocol: protocol, Container: uint16(n)})
		}
	}
	return ports
}

// keeperNetwork is what the keeper of a container does for its networks.
func (e *Engine) keeperNetwork(id string, s network.Sandbox) keeper.NetworkOptions {
	ground := e.network.Ground()
	o := keeper.NetworkOptions{Forwards: forwards(s, ground), DNS: e.network.DNSFile(id)}
	if ground != "" { // nobody else changes the rules there
		return o
	}
	if main := s.Main(); main != nil && main.Driver == "bridge" {
		table, lock := e.network.Firewall()
		o.Firewall = keeper.Firewall{Table: table, Lock: lock, Repair: e.teu("network", "repair")}
	}
	return o
}

// forwards are the listeners of the published ports. Those on every address or on one that
// is not the loopback's have no work while the host's rules stand, but keep the port.
//
// In a user's own network, the ground, they are the only way in.
func forwards(s network.Sandbox, ground string) []keeper.Forward {
	main := s.Main()
	if main == nil || main.Driver != "bridge" {
		return nil
	}
	var all []keeper.Forward
	for _, p := range s.Ports {
		if p.Protocol != "tcp" && p.Protocol != "udp" || p.HostPort == 0 {
			continue
		}
		target := main.Address.Addr()
		if !target.IsValid() {
			target = main.Address6.Addr()
		}
		add := func(a netip.Addr, optional bool) {
			kind := p.Protocol + "4"
			if a.Is6() {
				kind = p.Protocol + "6"
			}
			all = append(all, keeper.Forward{
				Network: kind, Listen: netip.AddrPortFrom(a, p.HostPort).String(), Target: netip.AddrPortFrom(target, p.Container).String(), Optional: optional, From: ground,
			})
		}
		every, every6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
		if p.Protocol == "udp" && ground == "" { // an answer must come from the address that was asked
			every, every6 = netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
		}
		switch {
		case !p.HostIP.IsValid():
			add(every, false)
			add(every6, true) // a host may have no IPv6
		case p.HostIP == netip.IPv4Unspecified():
			add(every, false)
		case p.HostIP == netip.IPv6Unspecified():
			add(every6, true)
		default:
			add(p.HostIP, p.Protocol == "udp")
		}
	}
	return all
}
