package engine

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/inspect"
	"github.com/teu-dev/teu/runner/keeper"
)

// summary is an element of GET /containers/json.
type summary struct {
	container.Summary
	Ports           []container.PortSummary
	NetworkSettings struct{ Networks any }
	Created         int64
}

func (s *Server) inspectContainer(w http.ResponseWriter, r *request) error {
	engine := s.Backend.Containers()
	in, err := engine.Inspect(r.Context(), r.name)
	if err != nil {
		return err
	}
	out := inspect.New(in, int(r.version))
	if r.flag("size") {
		out.SetSizes(engine.RootSizes(in.ID))
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) listContainers(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label",
		"name", "network", "publish", "since", "status", "volume")
	if err != nil {
		return err
	}
	limit, err := r.number("limit", 0)
	if err != nil {
		return err
	}
	engine := s.Backend.Containers()
	all, err := engine.List(r.Context())
	if err != nil {
		return err
	}
	m, err := s.matcher(r, filters, all)
	if err != nil {
		return err
	}
	everything := r.flag("all") || limit > 0 || len(filters["status"]) > 0 || len(filters["exited"]) > 0
	all = slices.DeleteFunc(all, func(c *runner.Container) bool { return !everything && !goesOn(c.State) || !m.match(c) })
	if limit > 0 {
		all = all[:min(len(all), limit)]
	}
	list := make([]summary, len(all))
	for i, in := range engine.NetworkSettings(all...) {
		list[i] = s.summary(r, all[i], in)
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) summary(r *request, c *runner.Container, in runner.InspectNetwork) (one summary) {
	engine := s.Backend.Containers()
	one.Summary = container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Options.Image, ImageID: c.ImageID.String(), Command: c.Command(),
		Labels: c.Labels(), State: container.ContainerState(c.State.Status), Status: statusText(c.State), Mounts: inspect.Mounts(c),
	}
	one.Created = c.Created.Unix()
	one.Ports = []container.PortSummary{}
	if goesOn(c.State) {
		one.Ports = ports(in)
	}
	one.HostConfig.NetworkMode = cmp.Or(c.Options.Network, "bridge")
	if r.version >= 46 {
		one.HostConfig.Annotations = c.Options.Annotations
	}
	one.NetworkSettings.Networks = in.Networks
	if r.version >= 52 {
		one.Health = &container.HealthSummary{Status: container.NoHealthcheck}
		if h := c.State.Health; h != nil {
			one.Health = &container.HealthSummary{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak}
		}
	}
	if r.flag("size") {
		one.SizeRw, one.SizeRootFs = engine.RootSizes(c.ID)
	}
	return one
}

// ports are docker's list of published and exposed ports.
func ports(in runner.InspectNetwork) []container.PortSummary {
	list := []container.PortSummary{}
	for name, bindings := range in.Ports {
		text, protocol, _ := strings.Cut(name, "/")
		one := container.PortSummary{PrivatePort: uint16(number(text)), Type: protocol}
		if len(bindings) == 0 {
			list = append(list, one)
		}
		for _, b := range bindings {
			one.PublicPort = uint16(number(b.HostPort))
			one.IP, _ = netip.ParseAddr(b.HostIP)
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		if a.PrivatePort != b.PrivatePort {
			return int(a.PrivatePort) - int(b.PrivatePort)
		}
		return strings.Compare(a.Type+a.IP.String(), b.Type+b.IP.String())
	})
	return list
}

// statusText is docker's: "Up 5 minutes (healthy)", "Exited (0) 2 hours ago".
func statusText(st keeper.State) string {
	up := "Up " + units.HumanDuration(time.Since(st.StartedAt))
	switch st.Status {
	case keeper.Running:
		switch h := st.Health; {
		case h == nil:
			return up
		case h.Status == "starting":
			return up + " (health: starting)"
		default:
			return up + " (" + h.Status + ")"
		}
	case keeper.Paused:
		return up + " (Paused)"
	case keeper.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, units.HumanDuration(time.Since(st.FinishedAt)))
	case keeper.Created:
		return "Created"
	case keeper.Removing:
		return "Removal In Progress"
	case keeper.Dead:
		return "Dead"
	}
	return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, units.HumanDuration(time.Since(st.FinishedAt)))
}

// matcher is the filters of a listing, ready for use.
type matcher struct {
	filters       map[string][]string
	names         []*regexp.Regexp
	ancestors     map[string]bool // image IDs
	before, since time.Time
}

// maxFilter bounds the regular expressions of clients.
const maxFilter = 1 << 10

func (s *Server) matcher(r *request, filters map[string][]string, all []*runner.Container) (m *matcher, err error) {
	m = &matcher{filters: filters}
	for _, v := range filters["name"] {
		re, err := regexp.Compile(v)
		if err != nil || len(v) > maxFilter {
			return nil, invalid("invalid filter 'name=%s'", v)
		}
		m.names = append(m.names, re)
	}
	for _, v := range filters["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %s", v, err)
		}
	}
	for _, v := range filters["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, invalid("%s", err)
		}
	}
	for _, v := range filters["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return nil, invalid("invalid filter 'exited=%s'", v)
		}
	}
	for name, to := range map[string]*time.Time{"before": &m.before, "since": &m.since} {
		for _, ref := range filters[name] {
			c, err := s.Backend.Containers().Get(r.Context(), ref)
			if err != nil {
				return nil, err
			}
			*to = c.Created
		}
	}
	if len(filters["ancestor"]) > 0 {
		m.ancestors = s.ancestors(r, filters["ancestor"])
	}
	return m, nil
}

func (s *Server) ancestors(r *request, names []string) map[string]bool {
	ids := map[string]bool{}
	images, err := s.images(r, nil)
	if err != nil {
		return ids
	}
	for _, name := range names {
		if d, err := images.Inspect(r.Context(), name); err == nil {
			ids[d.ID] = true
		}
	}
	return ids
}

// match: different filters must all fit; of one with several values any does, but labels
// must all be there.
func (m *matcher) match(c *runner.Container) bool {
	f := m.filters
	in := func(name, value string) bool { return anyOf(f, name, func(v string) bool { return v == value }) }
	ok := anyOf(f, "id", func(v string) bool { return v != "" && strings.HasPrefix(c.ID, v) }) &&
		(len(m.names) == 0 || slices.ContainsFunc(m.names, func(re *regexp.Regexp) bool { return re.MatchString("/"+c.Name) || re.MatchString(c.Name) })) &&
		in("status", string(c.State.Status)) &&
		(len(f["exited"]) == 0 || c.State.Status == keeper.Exited && in("exited", strconv.Itoa(c.State.ExitCode))) &&
		in("health", healthName(c)) &&
		(m.ancestors == nil || m.ancestors[c.ImageID.String()]) &&
		(m.before.IsZero() || c.Created.Before(m.before)) && (m.since.IsZero() || c.Created.After(m.since)) &&
		anyOf(f, "volume", func(v string) bool {
			return slices.ContainsFunc(c.Mounts, func(p runner.MountPoint) bool { return p.Name == v || p.Destination == v || p.Source == v })
		}) &&
		anyOf(f, "network", func(v string) bool { return inNetwork(c, v) }) &&
		anyOf(f, "publish", func(v string) bool { return hasPort(c, v, true) }) &&
		anyOf(f, "expose", func(v string) bool { return hasPort(c, v, false) }) &&
		anyOf(f, "is-task", func(v string) bool { return !truth(v) })
	return ok && hasAll(c.Labels(), f["label"]) && hasAll(c.Options.Annotations, f["annotation"])
}

func healthName(c *runner.Container) string {
	if c.State.Health == nil {
		return "none"
	}
	return c.State.Health.Status
}

func inNetwork(c *runner.Container, name string) bool {
	if cmp.Or(c.Options.Network, "bridge") == name {
		return true
	}
	return slices.ContainsFunc(c.Options.Endpoints, func(e runner.Endpoint) bool { return e.Network == name })
}

// hasPort applies publish= and expose=: PORT[/PROTOCOL] or FIRST-LAST[/PROTOCOL].
func hasPort(c *runner.Container, text string, published bool) bool {
	numbers, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	first, last, err := hostPorts(numbers)
	if err != nil {
		return false
	}
	for _, p := range c.Options.Ports {
		if p.Protocol == protocol && p.Container >= first && p.Container <= last {
			return true
		}
	}
	if published {
		return false
	}
	for name := range c.ImageConfig.ExposedPorts {
		n, proto, _ := strings.Cut(name, "/")
		if k := uint16(number(n)); cmp.Or(proto, "tcp") == protocol && k >= first && k <= last {
			return true
		}
	}
	return false
}

// hasAll says whether labels holds all of want, KEY or KEY=VALUE each.
func hasAll(labels map[string]string, want []string) bool {
	for _, w := range want {
		k, v, valued := strings.Cut(w, "=")
		if got, ok := labels[k]; !ok || valued && got != v {
			return false
		}
	}
	return true
}
