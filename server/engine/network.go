package engine

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	dockernet "github.com/moby/moby/api/types/network"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/network"
)

// networkJSON is docker's network; in listings Containers is empty since 1.28, and left out since 1.52.
type networkJSON struct {
	network.Network
	Containers map[string]runner.NetworkMember `json:",omitzero"`
	Status     *networkStatus                  `json:",omitempty"`
}

// networkStatus is in the answer to an inspection since 1.52.
type networkStatus struct {
	IPAM struct {
		Subnets map[netip.Prefix]network.SubnetStatus `json:",omitempty"`
	}
}

func statusOf(n network.Network, members map[string]runner.NetworkMember) *networkStatus {
	var used []netip.Addr
	for _, m := range members {
		for _, text := range []string{m.IPv4Address, m.IPv6Address} {
			if p, err := netip.ParsePrefix(text); err == nil {
				used = append(used, p.Addr())
			}
		}
	}
	s := &networkStatus{}
	s.IPAM.Subnets = n.Status(used)
	return s
}

func networkOf(n network.Network, members map[string]runner.NetworkMember, v version) networkJSON {
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	if n.IPAM.Config == nil {
		n.IPAM.Config = []network.IPAMConfig{}
	}
	if members == nil && v < 52 {
		members = map[string]runner.NetworkMember{}
	}
	return networkJSON{Network: n, Containers: members}
}

func (s *Server) listNetworks(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	all, err := s.Containers.Networks(r.Context(), filters)
	if err != nil {
		return err
	}
	list := []networkJSON{}
	for _, n := range all {
		var members map[string]runner.NetworkMember
		if r.version < 28 {
			if in, err := s.Containers.InspectNetwork(r.Context(), n.ID); err == nil {
				members = in.Containers
			}
		}
		list = append(list, networkOf(n, members, r.version))
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) inspectNetwork(w http.ResponseWriter, r *request) error {
	if scope := r.param("scope"); scope != "" && scope != "local" {
		return worded(errdefs.ErrNotFound, "network %s not found", r.name)
	}
	in, err := s.Containers.InspectNetwork(r.Context(), r.name)
	if err != nil {
		return err
	}
	out := networkOf(in.Network, in.Containers, r.version)
	if r.version >= 52 {
		out.Status = statusOf(in.Network, in.Containers)
	}
	return writeJSON(w, http.StatusOK, out)
}

// createNetworkRequest: CheckDuplicate was there until 1.44, names are always unique here.
type createNetworkRequest struct {
	dockernet.CreateRequest
	CheckDuplicate bool
}

func (s *Server) createNetwork(w http.ResponseWriter, r *request) error {
	var body createNetworkRequest
	if err := r.need(&body); err != nil {
		return err
	}
	if strings.TrimSpace(body.Name) == "" {
		return invalid("name is required")
	}
	if body.Scope == "swarm" || body.Ingress {
		return notSwarm(w, r)
	}
	o := network.CreateOptions{
		Name: body.Name, Driver: body.Driver, Options: body.Options, Labels: body.Labels, Internal: body.Internal,
		Attachable: body.Attachable, EnableIPv4: body.EnableIPv4, EnableIPv6: body.EnableIPv6, ConfigOnly: body.ConfigOnly,
	}
	if body.ConfigFrom != nil {
		o.ConfigFrom = body.ConfigFrom.Network
	}
	if i := body.IPAM; i != nil {
		o.IPAMDriver, o.IPAMOption = i.Driver, i.Options
		for _, c := range i.Config {
			o.IPAM = append(o.IPAM, network.IPAMConfig{Subnet: c.Subnet, IPRange: c.IPRange, Gateway: c.Gateway, AuxiliaryAddresses: c.AuxAddress})
		}
	}
	n, err := s.Containers.CreateNetwork(r.Context(), o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, dockernet.CreateResponse{ID: n.ID})
}

func (s *Server) connect(w http.ResponseWriter, r *request) error {
	var body dockernet.ConnectRequest
	if err := r.need(&body); err != nil {
		return err
	}
	if err := checkEndpoint(body.EndpointConfig); err != nil {
		return err
	}
	return s.Containers.ConnectNetwork(r.Context(), r.name, body.Container, endpoint(body.EndpointConfig))
}

func checkEndpoint(e *dockernet.EndpointSettings) error {
	if e == nil || e.IPAMConfig == nil {
		return nil
	}
	for _, a := range []struct {
		address netip.Addr
		is4     bool
		name    string
	}{{e.IPAMConfig.IPv4Address, true, "IPv4"}, {e.IPAMConfig.IPv6Address, false, "IPv6"}} {
		if a.address.IsValid() && a.address.Is4() != a.is4 {
			return invalid("invalid endpoint settings: invalid %s address: %s", a.name, a.address)
		}
	}
	return nil
}

func (s *Server) disconnect(w http.ResponseWriter, r *request) error {
	var body dockernet.DisconnectRequest
	if err := r.need(&body); err != nil {
		return err
	}
	return s.Containers.DisconnectNetwork(r.Context(), r.name, body.Container, body.Force)
}

func (s *Server) removeNetwork(w http.ResponseWriter, r *request) error {
	err := s.Containers.RemoveNetwork(r.Context(), r.name)
	if errdefs.IsFailedPrecondition(err) {
		return &statusError{http.StatusForbidden, message(err)}
	}
	if err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) pruneNetworks(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	names, err := s.Containers.PruneNetworks(r.Context(), filters)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, dockernet.PruneReport{NetworksDeleted: names})
}
