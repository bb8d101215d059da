package runner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/teu-dev/teu/runner/keeper"
)

// SearchOptions say which containers are wanted: by default those that run.
type SearchOptions struct {
	All   bool // in any state
	Limit int  // if above 0, that many in any state, those made last
	// Filters are docker's, name to values. Different ones must all fit; of one with several
	// values any does, but all labels and annotations must be there.
	Filters map[string][]string
}

// Search returns the containers that fit, the newest first. What filters mean is told by moby
// (daemon/list.go, includeContainerInList).
func (e *Engine) Search(ctx context.Context, o SearchOptions) ([]*Container, error) {
	if err := checkFilters(o.Filters, "ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label",
		"name", "network", "publish", "since", "status", "volume"); err != nil {
		return nil, err
	}
	m, err := e.newSearch(ctx, o)
	if err != nil {
		return nil, err
	}
	all, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	everything := o.All || o.Limit > 0 || len(o.Filters["status"]) > 0 || len(o.Filters["exited"]) > 0
	all = slices.DeleteFunc(all, func(c *Container) bool { return !everything && !c.State.Status.GoesOn() || !m.fits(c) })
	if o.Limit > 0 {
		all = all[:min(len(all), o.Limit)]
	}
	return all, nil
}

// search is the filters of a listing, checked and resolved.
type search struct {
	engine          *Engine
	ids, names      []pattern
	filters         map[string][]string
	before, since   time.Time
	images          []string // IDs, of ancestor
	networks        []string // names, of network
	publish, expose []ports
	isTask          bool
}

func (e *Engine) newSearch(ctx context.Context, o SearchOptions) (*search, error) {
	m := &search{engine: e, filters: o.Filters}
	if err := m.check(); err != nil {
		return nil, err
	}
	for name, to := range map[string]*time.Time{"before": &m.before, "since": &m.since} {
		for _, ref := range o.Filters[name] {
			c, err := e.Get(ctx, ref)
			if err != nil {
				return nil, err
			}
			*to = c.Created
		}
	}
	if err := m.findImages(ctx); err != nil {
		return nil, err
	}
	if wanted := o.Filters["network"]; len(wanted) > 0 {
		networks, err := e.network.List()
		if err != nil {
			return nil, err
		}
		m.networks = slices.Clone(wanted)
		for _, n := range networks {
			if slices.ContainsFunc(wanted, func(v string) bool { return v != "" && strings.HasPrefix(n.ID, v) }) {
				m.networks = append(m.networks, n.Name)
			}
		}
	}
	return m, nil
}

// findImages resolves ancestor. An image that is not there finds nothing.
func (m *search) findImages(ctx context.Context) error {
	if len(m.filters["ancestor"]) == 0 {
		return nil
	}
	store, err := m.engine.Store()
	if err != nil {
		return err
	}
	for _, ref := range m.filters["ancestor"] {
		record, err := store.Lookup(ctx, ref)
		if err != nil {
			continue
		}
		if id, err := store.ImageID(ctx, record.Target); err == nil {
			m.images = append(m.images, id.String())
		}
	}
	return nil
}

// check refuses values that mean nothing.
func (m *search) check() (err error) {
	if m.ids, err = patterns(m.filters, "id"); err != nil {
		return err
	}
	for i := range m.ids {
		if m.ids[i].text == "" { // an empty variable of a script means no container, not all
			m.ids[i].re = nil
		}
	}
	if m.names, err = patterns(m.filters, "name"); err != nil {
		return err
	}
	bad := func(name, value string, cause any) error {
		return worded(errdefs.ErrInvalidArgument, "invalid filter '%s=%s': %v", name, value, cause)
	}
	for name, words := range map[string][]string{ // what docker calls it, and its values
		"status": {"state", "created", "running", "paused", "restarting", "removing", "exited", "dead"},
		"health": {"health", "none", "starting", "healthy", "unhealthy"},
	} {
		for _, v := range m.filters[name] {
			if !slices.Contains(words[1:], v) {
				return bad(name, v, fmt.Sprintf("invalid value for %s (%s): must be one of %s", words[0], v, strings.Join(words[1:], ", ")))
			}
		}
	}
	for _, v := range m.filters["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return bad("exited", v, err)
		}
	}
	if m.isTask, _, err = boolFilter(m.filters, "is-task"); err != nil {
		return err
	}
	for name, to := range map[string]*[]ports{"publish": &m.publish, "expose": &m.expose} {
		for _, v := range m.filters[name] {
			p, ok := parsePorts(v)
			if !ok {
				return bad(name, v, "neither PORT[/PROTOCOL] nor FIRST-LAST[/PROTOCOL]")
			}
			*to = append(*to, p)
		}
	}
	return nil
}

func (m *search) fits(c *Container) bool {
	any := func(name string, fits func(string) bool) bool { return anyOf(m.filters[name], fits) }
	return matchAny(m.ids, c.ID) && (matchAny(m.names, c.Name) || matchAny(m.names, "/"+c.Name)) &&
		any("status", func(v string) bool { return string(c.State.Status) == v }) &&
		any("health", func(v string) bool { return HealthName(c.State) == v }) &&
		any("exited", func(v string) bool { return c.State.Status == keeper.Exited && strconv.Itoa(c.State.ExitCode) == v }) &&
		any("ancestor", func(string) bool { return slices.Contains(m.images, c.ImageID.String()) }) &&
		any("is-task", func(string) bool { return !m.isTask }) &&
		(m.before.IsZero() || c.Created.Before(m.before)) && (m.since.IsZero() || c.Created.After(m.since)) &&
		any("volume", c.mounts) && any("network", func(string) bool { return m.connected(c) }) && m.serves(c) &&
		hasLabels(c.Labels(), m.filters) && hasLabels(c.Options.Annotations, map[string][]string{"label": m.filters["annotation"]})
}

// HealthName is docker's word for how healthy a container is. One that has no processes is
// unhealthy, whatever its last check said (moby daemon/container/health.go, CloseMonitorChannel).
func HealthName(s keeper.State) string {
	switch {
	case s.Health == nil:
		return "none"
	case !runs(s):
		return keeper.HealthUnhealthy
	}
	return s.Health.Status
}

// mounts says whether there is a mount of a volume or a directory, or one at a path.
func (c *Container) mounts(v string) bool {
	return slices.ContainsFunc(c.Mounts, func(m MountPoint) bool {
		return m.Destination == v || m.Name == v || m.Name == "" && m.Source == v
	})
}

func (m *search) connected(c *Container) bool {
	return slices.ContainsFunc(m.engine.NetworkNames(c), func(name string) bool { return slices.Contains(m.networks, name) })
}

// serves applies publish, which means ports of the host, and expose, which means the container's.
func (m *search) serves(c *Container) bool {
	if len(m.publish)+len(m.expose) == 0 {
		return true
	}
	in := func(list []ports, protocol string, port uint16) bool {
		return slices.ContainsFunc(list, func(p ports) bool { return p.protocol == protocol && p.first <= port && port <= p.last })
	}
	for _, p := range slices.Concat(m.engine.Ports(c), m.engine.Exposed(c)) {
		if p.HostPort != 0 && in(m.publish, p.Protocol, p.HostPort) || in(m.expose, p.Protocol, p.Container) {
			return true
		}
	}
	return false
}

// ports is a range of ports.
type ports struct {
	first, last uint16
	protocol    string
}

// parsePorts reads PORT[-PORT][/PROTOCOL].
func parsePorts(text string) (p ports, ok bool) {
	numbers, protocol, given := strings.Cut(text, "/")
	if p.protocol = strings.ToLower(protocol); !given {
		p.protocol = "tcp"
	}
	p.first, p.last, ok = ParseRange(numbers)
	return p, ok && slices.Contains([]string{"tcp", "udp", "sctp"}, p.protocol)
}

// StatusText is docker's: "Up 5 minutes (healthy)", "Exited (0) 2 hours ago".
func StatusText(s keeper.State) string {
	up := "Up " + units.HumanDuration(time.Since(s.StartedAt))
	ended := func() string { return units.HumanDuration(time.Since(s.FinishedAt)) + " ago" }
	switch s.Status {
	case keeper.Running:
		switch h := s.Health; {
		case h == nil:
			return up
		case h.Status == keeper.HealthStarting:
			return up + " (health: starting)"
		default:
			return up + " (" + h.Status + ")"
		}
	case keeper.Paused:
		return up + " (Paused)"
	case keeper.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ended())
	case keeper.Created:
		return "Created"
	case keeper.Removing:
		return "Removal In Progress"
	case keeper.Dead:
		return "Dead"
	}
	return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ended())
}
