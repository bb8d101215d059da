package engine

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	in, err := s.Containers.Inspect(r.Context(), r.name)
	if err != nil {
		return err
	}
	out := inspection{Container: inspect.New(in, int(r.version))}
	if r.version >= 52 {
		out.Storage = &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: out.GraphDriver.Name}}}
	}
	if r.version >= 48 {
		out.ImageManifestDescriptor = runner.NewManifests(s.Store).Of(r.Context(), in.Container)
	}
	if r.flag("size") {
		out.SetSizes(s.Containers.RootSizes(in.ID))
	}
	return writeJSON(w, http.StatusOK, out)
}

// inspection is docker's container, with what only the API tells.
type inspection struct {
	*inspect.Container
	ImageManifestDescriptor *ocispec.Descriptor `json:",omitempty"`
	Storage                 *storage.Storage    `json:",omitempty"` // beside GraphDriver, which tells the directories too
}

func (s *Server) listContainers(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	limit, err := r.number("limit")
	if err != nil {
		return err
	}
	all, err := s.Containers.Search(r.Context(), runner.SearchOptions{All: r.flag("all"), Limit: limit, Filters: filters})
	if err != nil {
		return err
	}
	list := s.summaries(r, all)
	if r.version >= 48 {
		manifests := runner.NewManifests(s.Store)
		for i, c := range all {
			list[i].ImageManifestDescriptor = manifests.Of(r.Context(), c)
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) summaries(r *request, all []*runner.Container) []summary {
	list := make([]summary, len(all))
	images := s.Containers.ImageNames(r.Context(), all)
	for i, in := range s.Containers.NetworkSettings(all...) {
		list[i] = s.summary(r, all[i], images[i], in)
	}
	return list
}

func (s *Server) summary(r *request, c *runner.Container, image string, in runner.InspectNetwork) (one summary) {
	one.Summary = container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: image, ImageID: c.ImageID.String(), Command: c.Command(),
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
		one.SizeRw, one.SizeRootFs = s.Containers.RootSizes(c.ID)
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
