package runner

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/network"
)

// NetworkInspection is a network and who is in it, in the shape of docker's API (1.51).
type NetworkInspection struct {
	network.Network
	Containers map[string]NetworkMember // running ones, by ID
}

// NetworkMember is a running container in a network.
type NetworkMember struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string // with the prefix length, or ""
	IPv6Address string
}

// CreateNetwork defines a network. A name or subnet that is taken is an
// errdefs.ErrConflict or errdefs.ErrPermissionDenied, as docker's API answers 409 and 403.
func (e *Engine) CreateNetwork(ctx context.Context, o network.CreateOptions) (network.Network, error) {
	n, err := e.network.Create(ctx, o)
	if err == nil {
		e.Emit("network", "create", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	}
	return n, err
}

// Networks returns the networks that pass docker's filters (driver, id, label, name,
// scope, type, dangling), by name. An unknown filter is an errdefs.ErrInvalidArgument.
func (e *Engine) Networks(ctx context.Context, filters map[string][]string) ([]network.Network, error) {
	if err := checkFilters(filters, "driver", "id", "label", "label!", "name", "scope", "type", "dangling"); err != nil {
		return nil, err
	}
	dangling, given, err := boolFilter(filters, "dangling")
	if err != nil {
		return nil, err
	}
	names, err := patterns(filters, "name")
	if err != nil {
		return nil, err
	}
	for _, t := range filters["type"] {
		if t != "custom" && t != "builtin" {
			return nil, worded(errdefs.ErrInvalidArgument, "invalid filter: 'type'='%s'", t)
		}
	}
	all, err := e.network.List()
	if err != nil || len(filters) == 0 {
		return all, err
	}
	used := map[string]bool{}
	if given {
		if used, err = e.usedNetworks(); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(all, func(n network.Network) bool {
		builtin := e.network.Builtin(n)
		return !anyOf(filters["driver"], func(s string) bool { return n.Driver == s }) ||
			!anyOf(filters["id"], func(s string) bool { return strings.HasPrefix(n.ID, s) }) ||
			!matchAny(names, n.Name) ||
			!anyOf(filters["scope"], func(s string) bool { return n.Scope == s }) ||
			!anyOf(filters["type"], func(s string) bool { return builtin == (s == "builtin") }) ||
			given && dangling != (!builtin && !used[n.ID]) || !hasLabels(n.Labels, filters)
	}), nil
}

// anyOf says whether one of the values of a filter matches; a filter that is not given does.
func anyOf(values []string, match func(string) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, match)
}

// usedNetworks are the IDs of the networks that containers are in, or would be if they ran.
func (e *Engine) usedNetworks() (map[string]bool, error) {
	used := map[string]bool{}
	ids, err := e.IDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, err := e.load(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := e.endpoints(c)
		if err != nil {
			return nil, err
		}
		for _, ep := range list {
			if n, err := e.network.Find(ep.Network); err == nil {
				used[n.ID] = true
			}
		}
	}
	return used, nil
}

// Network finds a network by name, ID or the beginning of an ID.
func (e *Engine) Network(ctx context.Context, ref string) (network.Network, error) {
	return e.network.Find(ref)
}

// InspectNetwork finds a network and the running containers in it.
func (e *Engine) InspectNetwork(ctx context.Context, ref string) (*NetworkInspection, error) {
	n, err := e.network.Find(ref)
	if err != nil {
		return nil, err
	}
	in := &NetworkInspection{Network: n, Containers: map[string]NetworkMember{}}
	members, err := e.network.Members(n.ID)
	if err != nil {
		return nil, err
	}
	for _, s := range members {
		if ep := s.In(n.ID); s.Owner == nil {
			in.Containers[s.ID] = NetworkMember{
				Name: e.nameOf(s.ID), EndpointID: ep.ID, MacAddress: ep.MAC, IPv4Address: prefixText(ep.Address), IPv6Address: prefixText(ep.Address6),
			}
		}
	}
	return in, nil
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// RemoveNetwork removes a network no running container is in. One that is in use, or was
// always there, is an errdefs.ErrPermissionDenied, as docker's API answers 403.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	n, err := e.network.Find(ref)
	if err != nil {
		return err
	}
	err = e.dropNetwork(ctx, n)
	if errdefs.IsNotFound(err) { // by now
		err = worded(errdefs.ErrNotFound, "network %s not found", ref)
	}
	return err
}

func (e *Engine) dropNetwork(ctx context.Context, n network.Network) error {
	err := e.network.Remove(ctx, n.ID)
	if err == nil {
		e.Emit("network", "destroy", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	}
	return err
}

// PruneNetworks removes the networks no running container is in, but for those that only have a
// configuration for others, as dockerd does, and returns their names.
// Docker's filters label, label! and until say which.
func (e *Engine) PruneNetworks(ctx context.Context, filters map[string][]string) (names []string, err error) {
	if err := checkFilters(filters, "label", "label!", "until"); err != nil {
		return nil, err
	}
	before, err := untilFilter(filters)
	if err != nil {
		return nil, err
	}
	all, err := e.network.List()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if e.network.Builtin(n) || n.ConfigOnly || !hasLabels(n.Labels, filters) || !before.IsZero() && !n.Created.Before(before) {
			continue
		}
		err := e.dropNetwork(ctx, n)
		if errors.Is(err, errdefs.ErrPermissionDenied) || errors.Is(err, errdefs.ErrNotFound) {
			continue
		}
		if err != nil {
			return names, err
		}
		names = append(names, n.Name)
	}
	e.TellPruned("network", 0)
	return names, nil
}

// untilFilter is the time before which docker's filter until wants things to be made: a
// duration before now, seconds since 1970 or RFC 3339 and its beginnings.
func untilFilter(filters map[string][]string) (time.Time, error) {
	list := filters["until"]
	if len(list) == 0 {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(list[0]); err == nil {
		return time.Now().Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(list[0], 64); err == nil {
		return time.Unix(0, int64(sec*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, list[0], time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, worded(errdefs.ErrInvalidArgument, "invalid filter 'until=%s'", list[0])
}

// RepairNetwork makes the rules again if somebody has flushed them.
func (e *Engine) RepairNetwork(ctx context.Context) error { return e.network.Repair(ctx) }

// renamed lets the other containers of its networks find a container by its new name.
func (e *Engine) renamed(ctx context.Context, id string) error {
	c, err := e.load(id)
	if err != nil {
		return err
	}
	list, err := e.endpoints(c)
	if err != nil {
		return err
	}
	return e.network.Rename(ctx, id, func(at network.Endpoint) []string {
		for _, ep := range list {
			if ep.Network == at.NetworkName || ep.Network == at.Network {
				return c.attachment(network.Network{}, ep).Names
			}
		}
		return c.attachment(network.Network{}, Endpoint{}).Names
	})
}

func (e *Engine) endpointsFile(id string) string { return filepath.Join(e.dir(id), "networks.json") }
