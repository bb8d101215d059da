package runner

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// InspectNetwork is NetworkSettings of an Inspection. The addresses stand at the top too,
// where scripts have looked for them since before networks had names.
type InspectNetwork struct {
	Bridge              string
	SandboxID           string
	SandboxKey          string
	Ports               map[string][]PortBinding
	EndpointID          string
	Gateway             string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	MacAddress          string
	Networks            map[string]InspectEndpoint
}

// InspectEndpoint is one of the Networks of an Inspection.
type InspectEndpoint struct {
	IPAMConfig          *InspectIPAM
	Links               []string
	Aliases             []string
	MacAddress          string
	DriverOpts          map[string]string
	GwPriority          int
	NetworkID           string
	EndpointID          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	DNSNames            []string
}

// InspectIPAM are the addresses that were asked for.
type InspectIPAM struct {
	IPv4Address  string   `json:",omitempty"`
	IPv6Address  string   `json:",omitempty"`
	LinkLocalIPs []string `json:",omitempty"`
}

// Ports are the published ports of a running container.
func (e *Engine) Ports(c *Container) []network.Port {
	if ended(c.State) || len(c.ports()) == 0 {
		return nil
	}
	s, err := e.network.Get(c.ID)
	if err != nil {
		return nil
	}
	return s.Ports
}

// Exposed are the ports that a running container in a network says it serves, published or not.
func (e *Engine) Exposed(c *Container) (list []network.Port) {
	mode := c.Options.networkMode()
	if ended(c.State) || mode == "host" || mode == "none" || c.Options.networkContainer() != "" {
		return nil
	}
	for exposed := range c.exposed() {
		number, protocol, ok := strings.Cut(exposed, "/")
		if !ok {
			protocol = "tcp"
		}
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			list = append(list, network.Port{Container: uint16(n), Protocol: protocol})
		}
	}
	return list
}

// NetworkNames are the names of the networks a container is or would be in, sorted.
func (e *Engine) NetworkNames(c *Container) []string {
	var names []string
	list, _ := e.endpoints(c) // a listing shows what it can
	for _, ep := range list {
		name := ep.Network
		if len(name) == 64 { // compose gives IDs
			if n, err := e.network.Find(name); err == nil {
				name = n.Name
			}
		}
		names = append(names, name)
	}
	if mode := c.Options.networkMode(); len(list) == 0 && (mode == "host" || mode == "none") {
		names = []string{mode}
	}
	slices.Sort(names)
	return names
}

// NetworkSettings tells how containers are connected, as Inspect does. What they have in
// common is read once.
func (e *Engine) NetworkSettings(list ...*Container) []InspectNetwork {
	networks, _ := e.network.List() // a listing shows what it can
	out := make([]InspectNetwork, len(list))
	each(len(list), func(i int) { out[i] = e.networkSettings(list[i], networks) })
	return out
}

// exposed are the ports that the image and the container's maker name: PORT/PROTOCOL.
func (c *Container) exposed() iter.Seq[string] {
	return func(yield func(string) bool) {
		for port := range c.ImageConfig.ExposedPorts {
			if !yield(port) {
				return
			}
		}
		for _, port := range c.Options.Expose {
			if !yield(port) {
				return
			}
		}
	}
}

func (e *Engine) networkSettings(c *Container, networks []network.Network) InspectNetwork {
	o := &c.Options
	in := InspectNetwork{Ports: map[string][]PortBinding{}, Networks: map[string]InspectEndpoint{}}
	if !ended(c.State) {
		for port := range c.exposed() {
			in.Ports[port] = nil
		}
	}
	if o.networkContainer() != "" {
		return in
	}
	var sb network.Sandbox
	if !ended(c.State) {
		sb, _ = e.network.Get(c.ID) // one that is just starting has none yet
	}
	if sb.NetNS != "" {
		in.SandboxID, in.SandboxKey = c.ID, sb.NetNS
	}
	for _, p := range sb.Ports {
		in.Ports[portName(p)] = append(in.Ports[portName(p)], bindings(p)...)
	}
	if mode := o.networkMode(); mode == "host" || mode == "none" {
		n, _ := network.Among(networks, mode)
		in.Networks[mode] = InspectEndpoint{NetworkID: c.joined(n.ID)}
		return in
	}
	list, _ := e.endpoints(c)
	for _, ep := range list {
		one, name := inspectEndpoint(c, ep), ep.Network
		if n, err := network.Among(networks, ep.Network); err == nil {
			one.NetworkID, name = c.joined(n.ID), n.Name
			one.fill(sb.In(n.ID))
		}
		in.Networks[name] = one
		if ep.Network == "bridge" {
			in.EndpointID, in.MacAddress = one.EndpointID, one.MacAddress
			in.Gateway, in.IPAddress, in.IPPrefixLen = one.Gateway, one.IPAddress, one.IPPrefixLen
			in.IPv6Gateway, in.GlobalIPv6Address, in.GlobalIPv6PrefixLen = one.IPv6Gateway, one.GlobalIPv6Address, one.GlobalIPv6PrefixLen
		}
	}
	return in
}

// joined is the ID of a network that the container has been in; docker shows none before its first start.
func (c *Container) joined(id string) string {
	if c.State.Status == keeper.Created {
		return ""
	}
	return id
}

// bindings show a port as docker does: one that is published everywhere is so by IPv4 and IPv6.
func bindings(p network.Port) []PortBinding {
	port := ""
	if p.HostPort != 0 { // in a routed network none is the host's
		port = fmt.Sprint(p.HostPort)
	}
	if p.HostIP.IsValid() {
		return []PortBinding{{HostIP: p.HostIP.String(), HostPort: port}}
	}
	return []PortBinding{{HostIP: "0.0.0.0", HostPort: port}, {HostIP: "::", HostPort: port}}
}

// inspectEndpoint is what was asked for.
func inspectEndpoint(c *Container, ep Endpoint) InspectEndpoint {
	one := InspectEndpoint{Links: ep.Links, Aliases: ep.Aliases, DriverOpts: ep.DriverOpts, GwPriority: ep.GwPriority, MacAddress: ep.MAC}
	if ep.Network != "bridge" {
		one.DNSNames = c.attachment(network.Network{}, ep).Names
	}
	if ep.IPv4.IsValid() || ep.IPv6.IsValid() || len(ep.LinkLocalIPs) > 0 {
		one.IPAMConfig = &InspectIPAM{IPv4Address: addressText(ep.IPv4), IPv6Address: addressText(ep.IPv6)}
		for _, a := range ep.LinkLocalIPs {
			one.IPAMConfig.LinkLocalIPs = append(one.IPAMConfig.LinkLocalIPs, a.String())
		}
	}
	return one
}

// fill adds what a running container has.
func (one *InspectEndpoint) fill(at *network.Endpoint) {
	if at == nil {
		return
	}
	one.EndpointID, one.MacAddress = at.ID, at.MAC
	one.Gateway, one.IPv6Gateway = addressText(at.Gateway), addressText(at.Gateway6)
	if at.Address.IsValid() {
		one.IPAddress, one.IPPrefixLen = at.Address.Addr().String(), at.Address.Bits()
	}
	if at.Address6.IsValid() {
		one.GlobalIPv6Address, one.GlobalIPv6PrefixLen = at.Address6.Addr().String(), at.Address6.Bits()
	}
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
