package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

func (c *containerFlags) setMounts(o *runner.Options) error {
	for i, text := range c.volumes {
		if slices.Contains(c.volumes[:i], text) {
			continue // docker's command counts the same words once
		}
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
	o.VolumesFrom = c.volumesFrom
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

// parseVolume understands -v. What begins with a dot is a path from here.
func parseVolume(text string) (runner.MountRequest, error) {
	source, rest, ok := strings.Cut(text, ":")
	if ok && (strings.HasPrefix(source, ".") || strings.HasPrefix(source, "~")) {
		abs, err := filepath.Abs(source)
		if err != nil {
			return runner.MountRequest{}, err
		}
		text = abs + ":" + rest
	}
	if !ok && text != "" {
		text = path.Join("/", text) // docker takes any word for a place of an anonymous volume
	}
	m, err := runner.ParseBind(text)
	if text == "" || slices.Contains(strings.Split(text, ":"), "") {
		return m, clientError(err)
	}
	return m, err
}

// parseMount understands --mount: a line of CSV with key=value pairs. What docker's command refuses
// is told as it tells it, what its engine refuses is an errdefs.ErrInvalidArgument.
func parseMount(text string) (runner.MountRequest, error) {
	m := runner.MountRequest{Type: "volume", Long: true}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("invalid argument %q for \"--mount\" flag: %s", text, fmt.Sprintf(format, args...))
	}
	line := strings.TrimSpace(text)
	if line == "" {
		return m, bad("value is empty")
	}
	fields, err := csv.NewReader(strings.NewReader(line)).Read()
	if err != nil {
		return m, bad("%v", err)
	}
	own := map[string]string{} // the key that makes a type's option be there
	for _, field := range fields {
		key, value, valued := strings.Cut(field, "=")
		switch plain := strings.TrimSpace(value); {
		case strings.TrimSpace(key) != key:
			return m, bad("invalid option '%s' in '%s': option should not have whitespace", strings.TrimSpace(key), field)
		case valued && plain == "":
			return m, bad("invalid value for '%s': value is empty", key)
		case plain != value:
			return m, bad("invalid value for '%s' in '%s': value should not have whitespace", key, field)
		}
		key = strings.ToLower(key)
		if !valued {
			switch key {
			case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "idmap":
				value = "true"
			default:
				return m, bad("invalid field '%s' must be a key=value pair", field)
			}
		}
		if kind, _, _ := strings.Cut(key, "-"); kind == "bind" || kind == "volume" || kind == "tmpfs" || kind == "image" {
			own[kind] = key
		}
		if err := setMountField(&m, key, value); err != nil {
			return m, bad("%v", err)
		}
	}
	for kind := range own {
		if kind != m.Type {
			return m, bad("cannot mix '%s-*' options with mount type '%s'", kind, m.Type)
		}
	}
	if m.ReadOnlyNonRecursive && !m.ReadOnly {
		return m, bad("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	}
	if m.ReadOnlyForceRecursive && !m.ReadOnly {
		return m, bad("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
	}
	if m.ReadOnlyForceRecursive && m.Propagation != "rprivate" {
		return m, bad("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	}
	if m.Target == "" {
		return m, badMount(m.Type, "field Target must not be empty")
	}
	if p := m.Propagation; p != "" && !runner.IsPropagation(p) {
		return m, badMount("bind", "invalid propagation mode: "+p)
	}
	switch m.Type {
	case "bind":
		if m.Source == "" {
			return m, badMount("bind", "field Source must not be empty")
		}
		if strings.HasPrefix(m.Source, ".") { // as docker has it, other words are no path from here
			m.Source, err = filepath.Abs(m.Source)
		}
		if !path.IsAbs(m.Source) {
			return m, badMount("bind", fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", m.Source))
		}
	case "image":
		if m.Source == "" {
			return m, badMount("image", "field Source must not be empty")
		}
	case "volume":
	case "tmpfs":
		if m.Source != "" {
			return m, badMount("tmpfs", "field Source must not be specified")
		}
	default:
		return m, badMount(m.Type, "mount type unknown")
	}
	return m, err
}

// badMount is what docker's engine says of a mount that makes no sense.
func badMount(kind, why string) error {
	return engineError{fmt.Errorf("invalid mount config for type %q: %s", kind, why)}
}

// setMountField takes one key of --mount.
func setMountField(m *runner.MountRequest, key, value string) (err error) {
	switch key {
	case "type":
		m.Type = strings.ToLower(value)
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		m.ReadOnly, err = boolField(key, value)
	case "consistency":
	case "bind-propagation":
		m.Propagation = strings.ToLower(value)
	case "bind-nonrecursive":
		m.NoRecursive, err = boolField(key, value)
	case "bind-recursive":
		switch value {
		case "enabled":
		case "disabled":
			m.NoRecursive = true
		case "writable":
			m.ReadOnlyNonRecursive = true
		case "readonly":
			m.ReadOnlyForceRecursive = true
		default:
			err = fmt.Errorf("invalid value for %s: %s (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")", key, value)
		}
	case "idmap": // podman's: alone, or with uids=...;gids=...
		if value == "true" || value == "" {
			m.Options = append(m.Options, "idmap")
		} else {
			m.Options = append(m.Options, "idmap="+value)
		}
	case "bind-create-src":
		m.MakeSource, err = boolField(key, value)
	case "volume-nocopy":
		m.NoCopy, err = boolField(key, value)
	case "volume-subpath", "image-subpath":
		m.Subpath = value
	case "volume-driver":
		m.Driver = value
	case "volume-label":
		m.Labels = withPair(m.Labels, value)
	case "volume-opt":
		m.DriverOpts = withPair(m.DriverOpts, value)
	case "tmpfs-size":
		n, e := units.RAMInBytes(value)
		if err = e; err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, value)
		}
		m.Options = append(m.Options, fmt.Sprint("size=", n))
	case "tmpfs-mode":
		if _, e := strconv.ParseUint(value, 8, 32); e != nil {
			return fmt.Errorf("invalid value for %s: %s", key, value)
		}
		m.Options = append(m.Options, "mode="+value)
	default:
		err = fmt.Errorf("unknown option '%s' in '%s=%s'", key, key, value)
	}
	return err
}

func boolField(key, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid value for '%s': invalid boolean value (%q): must be one of \"true\", \"1\", \"false\", or \"0\" (default \"true\")", key, value)
	}
	return b, nil
}

func withPair(m map[string]string, pair string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	k, v, _ := strings.Cut(pair, "=")
	m[k] = v
	return m
}

func (c *containerFlags) setPorts(o *runner.Options) error {
	for _, text := range c.publish {
		ports, err := parsePublish(text)
		if err != nil {
			return err
		}
		o.Ports = append(o.Ports, ports...)
	}
	for _, text := range c.expose {
		ports, protocol, _ := strings.Cut(text, "/")
		protocol = strings.ToLower(cmp.Or(protocol, "tcp"))
		first, last, err := exposedRange(text, ports)
		if err == nil && !isProtocol(protocol) {
			err = errors.New("invalid proto: " + protocol)
		}
		if err != nil {
			return fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for p := first; p <= last; p++ {
			o.Expose = append(o.Expose, fmt.Sprintf("%d/%s", p, protocol))
		}
	}
	return nil
}

func isProtocol(name string) bool { return name == "tcp" || name == "udp" || name == "sctp" }

// exposedRange reads PORT or FIRST-LAST of text and says what is wrong in docker's words (moby
// api/types/network, ParsePortRange).
func exposedRange(text, ports string) (first, last int, err error) {
	if text == "" {
		return 0, 0, errors.New("invalid port range: value is empty")
	}
	a, b, ranged := strings.Cut(ports, "-")
	number := func(which, text string) int {
		n, e := strconv.ParseUint(text, 10, 16)
		var wrong *strconv.NumError
		switch {
		case err != nil || e == nil:
		case text == "":
			err = fmt.Errorf("invalid %s port '': value is empty", which)
		case errors.As(e, &wrong):
			err = fmt.Errorf("invalid %s port '%s': %w", which, text, wrong.Err)
		}
		return int(n)
	}
	first = number("start", a)
	if last = first; ranged {
		last = number("end", b)
	}
	if err == nil && (last < first || first == 0) {
		err = fmt.Errorf("invalid port range: %s", ports)
	}
	return first, last, err
}

// parsePublish understands [[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL], with ranges of the same
// length and IPv6 addresses in brackets.
func parsePublish(text string) ([]network.Port, error) {
	rest, protocol, _ := strings.Cut(text, "/")
	protocol = strings.ToLower(cmp.Or(protocol, "tcp"))
	if !isProtocol(protocol) {
		return nil, errors.New("invalid proto: " + protocol)
	}
	addressText, rest, ok := cutAddress(rest)
	if !ok {
		return nil, fmt.Errorf("no port specified: %s<empty>", text)
	}
	var address netip.Addr
	if addressText != "" {
		a, err := netip.ParseAddr(addressText)
		if err != nil || a.Zone() != "" {
			return nil, errors.New("invalid IP address: " + addressText)
		}
		address = a
	}
	host, container, ok := strings.Cut(rest, ":")
	if !ok {
		host, container = "", rest
	}
	if container == "" {
		return nil, fmt.Errorf("no port specified: %s<empty>", text)
	}
	first, last, err := portRange(container)
	if err != nil || first == 0 {
		return nil, errors.New("invalid containerPort: " + container)
	}
	from, to := 0, 0
	if host != "" {
		if from, to, err = portRange(host); err != nil {
			return nil, errors.New("invalid hostPort: " + host)
		}
	}
	if from != 0 && to-from != last-first && first != last {
		return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", container, host)
	}
	var ports []network.Port
	for p := first; p <= last; p++ {
		one := network.Port{Protocol: protocol, HostIP: address, Container: uint16(p)}
		if from != 0 {
			one.HostPort = uint16(from + p - first)
		}
		if first == last && to > from { // the first that is free
			one.HostEnd = uint16(to)
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
