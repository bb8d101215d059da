package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

// endpointFlags say how a container is in a network.
type endpointFlags struct {
	aliases, links, linkLocal, driverOpts []string
	ip, ip6, mac                          string
	priority                              int
}

func (e *endpointFlags) options() (o network.EndpointOptions, err error) {
	o = network.EndpointOptions{Aliases: e.aliases, Links: e.links, MAC: e.mac, GwPriority: e.priority}
	if len(e.driverOpts) > 0 {
		o.DriverOpts = keyValues(e.driverOpts)
	}
	for _, a := range []struct {
		text string
		six  bool
		to   *netip.Addr
	}{{e.ip, false, &o.IPv4}, {e.ip6, true, &o.IPv6}} {
		if a.text == "" {
			continue
		}
		if *a.to, err = netip.ParseAddr(strings.TrimSpace(a.text)); err != nil || a.to.Is6() != a.six {
			return o, fmt.Errorf("invalid IPv%d address: %s", map[bool]int{false: 4, true: 6}[a.six], a.text)
		}
	}
	for _, text := range e.linkLocal {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return o, fmt.Errorf("invalid link-local address: %s", text)
		}
		o.LinkLocalIPs = append(o.LinkLocalIPs, a)
	}
	if e.mac != "" {
		mac, err := net.ParseMAC(strings.TrimSpace(e.mac))
		if err != nil || len(mac) != 6 {
			return o, fmt.Errorf("%s is not a valid mac address", e.mac)
		}
		o.MAC = mac.String()
	}
	return o, nil
}

// setNetworks understands --network NAME and --network name=NAME,alias=A,ip=…, each as
// often as there are networks; --ip and the like are of the first.
func (c *containerFlags) setNetworks(o *runner.Options) error {
	first, err := c.endpoint.options()
	if err != nil {
		return err
	}
	o.Links = c.endpoint.links
	given := len(first.Aliases)+len(first.Links)+len(first.LinkLocalIPs) > 0 || first.IPv4.IsValid() || first.IPv6.IsValid() || first.MAC != ""
	seen := map[string]bool{}
	for i, text := range c.networks {
		ep, err := parseNetwork(text)
		if err != nil {
			return err
		}
		if ep.Network == "" {
			return errors.New("no name set for network")
		}
		if seen[ep.Network] {
			return fmt.Errorf("network %q is specified multiple times", ep.Network)
		}
		seen[ep.Network] = true
		if i == 0 {
			o.Network = ep.Network
			if ep.EndpointOptions, err = merge(ep.EndpointOptions, first); err != nil {
				return err
			}
		}
		if i > 0 || given || strings.Contains(text, "=") {
			o.Endpoints = append(o.Endpoints, ep)
		}
	}
	if len(c.networks) == 0 && given {
		o.Endpoints = []runner.Endpoint{{Network: "bridge", EndpointOptions: first}}
	}
	for _, ep := range o.Endpoints { // as docker's command does; of a bridge with another name the engine knows
		mode, _, _ := strings.Cut(ep.Network, ":")
		if len(ep.Aliases) > 0 && slices.Contains([]string{"bridge", "host", "none", "container"}, mode) {
			return errors.New("network-scoped aliases are only supported for user-defined networks")
		}
	}
	o.MacAddress = first.MAC
	c.tidyHosts()
	for name := range seen {
		if len(seen) > 1 && (name == "host" || name == "none" || strings.HasPrefix(name, "container:")) {
			return errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
		}
	}
	return nil
}

// tidyHosts writes names and addresses as the engine has them.
func (c *containerFlags) tidyHosts() {
	for n, text := range c.addHosts {
		c.addHosts[n] = extraHost(text)
	}
	for n, text := range c.dns {
		c.dns[n] = strings.TrimSpace(text)
	}
	for n, text := range c.dnsSearch {
		if text = strings.TrimSpace(text); text != "." {
			text = strings.TrimSuffix(text, ".")
		}
		c.dnsSearch[n] = text
	}
}

// merge puts the flags of the first network and what its --network says together.
func merge(ep, flags network.EndpointOptions) (network.EndpointOptions, error) {
	both := func(what string) error {
		return fmt.Errorf("conflicting options: cannot specify both --%s and per-network %s", what, what)
	}
	switch {
	case len(ep.Aliases) > 0 && len(flags.Aliases) > 0:
		return ep, both("network-alias")
	case ep.IPv4.IsValid() && flags.IPv4.IsValid():
		return ep, both("ip")
	case ep.IPv6.IsValid() && flags.IPv6.IsValid():
		return ep, both("ip6")
	case ep.MAC != "" && flags.MAC != "":
		return ep, both("mac-address")
	}
	ep.Aliases, ep.Links = slices.Concat(ep.Aliases, flags.Aliases), slices.Concat(ep.Links, flags.Links)
	ep.LinkLocalIPs = slices.Concat(ep.LinkLocalIPs, flags.LinkLocalIPs)
	if flags.IPv4.IsValid() {
		ep.IPv4 = flags.IPv4
	}
	if flags.IPv6.IsValid() {
		ep.IPv6 = flags.IPv6
	}
	if flags.MAC != "" {
		ep.MAC = flags.MAC
	}
	return ep, nil
}

// checkNetwork refuses a --network that is not to be understood.
func checkNetwork(text string) error {
	_, err := parseNetwork(text)
	return err
}

// parseNetwork understands one --network.
func parseNetwork(text string) (runner.Endpoint, error) {
	if text == "default" {
		return runner.Endpoint{Network: "bridge"}, nil
	}
	if !strings.Contains(text, "=") {
		return runner.Endpoint{Network: text}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return runner.Endpoint{}, err
	}
	var e endpointFlags
	var ep runner.Endpoint
	for _, field := range fields {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || value == "" {
			return ep, fmt.Errorf("invalid field %s", field)
		}
		switch strings.ToLower(key) {
		case "name":
			ep.Network = value
		case "alias":
			e.aliases = append(e.aliases, value)
		case "ip":
			_, err = netip.ParseAddr(value)
			e.ip = value
		case "ip6":
			_, err = netip.ParseAddr(value)
			e.ip6 = value
		case "mac-address":
			e.mac = value
		case "link-local-ip":
			_, err = netip.ParseAddr(value)
			e.linkLocal = append(e.linkLocal, value)
		case "driver-opt":
			e.driverOpts = append(e.driverOpts, value)
		case "gw-priority":
			if e.priority, err = strconv.Atoi(value); err != nil {
				var wrong *strconv.NumError
				errors.As(err, &wrong)
				err = fmt.Errorf("invalid gw-priority (%s): %w", value, wrong.Err)
			}
		default:
			err = fmt.Errorf("invalid field key %s", key)
		}
		if err != nil {
			return ep, err
		}
	}
	if ep.Network == "" {
		return ep, errors.New("network name/id is not specified")
	}
	if ep.Network == "default" {
		ep.Network = "bridge"
	}
	ep.EndpointOptions, err = e.options()
	return ep, err
}
