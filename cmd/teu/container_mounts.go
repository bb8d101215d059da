package main

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

func (c *containerFlags) setMounts(o *runner.Options) error {
	for _, text := range c.volumes {
		m, err := parseVolume(text)
		if err != nil {
			return err
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, text := range c.mounts {
		m, err := parseMount(text)
		if err != nil {
			return err
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, text := range c.tmpfs {
		target, options, _ := strings.Cut(text, ":")
		m := runner.MountRequest{Type: "tmpfs", Target: target}
		if options != "" {
			m.Options = strings.Split(options, ",")
		}
		o.Mounts = append(o.Mounts, m)
	}
	return nil
}

// parseVolume understands -v: TARGET, SOURCE:TARGET and SOURCE:TARGET:OPTIONS, where a
// source that is no path is a volume.
func parseVolume(text string) (runner.MountRequest, error) {
	parts := strings.Split(text, ":")
	m := runner.MountRequest{Type: "volume"}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2, 3:
		m.Source, m.Target = parts[0], parts[1]
	default:
		return m, fmt.Errorf("invalid volume specification: %q", text)
	}
	if m.Target == "" || len(parts) > 1 && m.Source == "" {
		return m, fmt.Errorf("invalid volume specification: %q", text)
	}
	if strings.HasPrefix(m.Source, "/") || strings.HasPrefix(m.Source, ".") || strings.HasPrefix(m.Source, "~") {
		m.Type, m.MakeSource = "bind", true
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return m, err
		}
		m.Source = abs
	}
	if len(parts) < 3 {
		return m, nil
	}
	for opt := range strings.SplitSeq(parts[2], ",") {
		switch opt {
		case "rw", "z", "Z", "", "consistent", "cached", "delegated":
		case "ro":
			m.ReadOnly = true
		case "nocopy":
			m.NoCopy = true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			m.Propagation = opt
		default:
			return m, fmt.Errorf("invalid mode: %s", opt)
		}
	}
	return m, nil
}

// parseMount understands --mount: a line of CSV with key=value pairs.
func parseMount(text string) (runner.MountRequest, error) {
	m := runner.MountRequest{Type: "volume"}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return m, fmt.Errorf("invalid argument %q for --mount: %w", text, err)
	}
	for _, field := range fields {
		k, v, valued := strings.Cut(field, "=")
		yes := !valued || v == "true" || v == "1"
		switch strings.ToLower(k) {
		case "type":
			m.Type = v
		case "source", "src":
			m.Source = v
		case "target", "destination", "dst":
			m.Target = v
		case "readonly", "ro":
			m.ReadOnly = yes
		case "bind-propagation":
			m.Propagation = v
		case "bind-nonrecursive":
			m.NoRecursive = yes
		case "bind-create-src":
			m.MakeSource = yes
		case "volume-nocopy":
			m.NoCopy = yes
		case "tmpfs-size":
			m.Options = append(m.Options, "size="+v)
		case "tmpfs-mode":
			m.Options = append(m.Options, "mode="+v)
		case "consistency", "volume-driver", "bind-recursive":
		default:
			return m, fmt.Errorf("invalid argument %q for --mount: unexpected key '%s' in '%s'", text, k, field)
		}
	}
	switch {
	case m.Type != "bind" && m.Type != "volume" && m.Type != "tmpfs":
		return m, fmt.Errorf("invalid argument %q for --mount: type %q is not there", text, m.Type)
	case m.Target == "":
		return m, fmt.Errorf("invalid argument %q for --mount: target is required", text)
	case m.Type == "bind" && m.Source == "":
		return m, fmt.Errorf("invalid argument %q for --mount: source is required", text)
	}
	if m.Type == "bind" {
		m.Source, err = filepath.Abs(m.Source)
	}
	return m, err
}

func (c *containerFlags) setPorts(o *runner.Options) error {
	for _, text := range c.publish {
		ports, err := parsePublish(text)
		if err != nil {
			return err
		}
		o.Ports = append(o.Ports, ports...)
	}
	if !c.publishAll {
		return nil
	}
	for _, text := range c.expose {
		ports, err := parsePublish(text)
		if err != nil {
			return err
		}
		o.Ports = append(o.Ports, ports...)
	}
	return nil
}

// parsePublish understands [[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL], with ranges of the same
// length and IPv6 addresses in brackets.
func parsePublish(text string) ([]network.Port, error) {
	bad := func(why string) error { return fmt.Errorf("invalid publish specification %q: %s", text, why) }
	rest, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" {
		return nil, bad("unknown protocol " + protocol)
	}
	addressText, rest, ok := cutAddress(rest)
	if !ok {
		return nil, bad("no port")
	}
	var address netip.Addr
	if addressText != "" {
		a, err := netip.ParseAddr(addressText)
		if err != nil {
			return nil, bad("invalid IP address")
		}
		address = a
	}
	host, container, ok := strings.Cut(rest, ":")
	if !ok {
		host, container = "", rest
	}
	first, last, err := portRange(container)
	if err != nil || first == 0 {
		return nil, bad("invalid containerPort: " + container)
	}
	from, to := 0, 0
	if host != "" {
		if from, to, err = portRange(host); err != nil {
			return nil, bad("invalid hostPort: " + host)
		}
	}
	if from != 0 && to-from != last-first && first != last {
		return nil, bad("the ranges have different lengths")
	}
	var ports []network.Port
	for p := first; p <= last; p++ {
		one := network.Port{Protocol: protocol, HostIP: address, Container: uint16(p)}
		if from != 0 {
			one.HostPort = uint16(from + p - first)
		}
		ports = append(ports, one)
	}
	return ports, nil
}

// cutAddress splits the address off ADDRESS:HOSTPORT:PORT or [ADDRESS]:HOSTPORT:PORT.
func cutAddress(text string) (address, rest string, ok bool) {
	if bracketed, ok := strings.CutPrefix(text, "["); ok {
		return strings.Cut(bracketed, "]:")
	}
	if strings.Count(text, ":") < 2 {
		return "", text, true
	}
	i := strings.LastIndexByte(text, ':')
	j := strings.LastIndexByte(text[:i], ':')
	return text[:j], text[j+1:], true
}

func portRange(text string) (first, last int, err error) {
	a, b, ok := strings.Cut(text, "-")
	n, err := strconv.ParseUint(a, 10, 16)
	if err != nil || !ok {
		return int(n), int(n), err
	}
	m, err := strconv.ParseUint(b, 10, 16)
	if err == nil && m < n {
		err = strconv.ErrRange
	}
	return int(n), int(m), err
}
