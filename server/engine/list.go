package engine

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/inspect"
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
	filters, err := r.filters()
	if err != nil {
		return err
	}
	limit, err := r.number("limit", 0)
	if err != nil {
		return err
	}
	engine := s.Backend.Containers()
	all, err := engine.Search(r.Context(), runner.SearchOptions{All: r.flag("all"), Limit: limit, Filters: filters})
	if err != nil {
		return err
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
		Labels: c.Labels(), State: container.ContainerState(c.State.Status), Status: runner.StatusText(c.State), Mounts: inspect.Mounts(c),
	}
	one.Created = c.Created.Unix()
	one.Ports = []container.PortSummary{}
	if c.State.Status.GoesOn() {
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
