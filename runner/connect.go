package runner

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// ConnectNetwork puts a container into a network, at once if it runs, and at every start.
func (e *Engine) ConnectNetwork(ctx context.Context, ref, container string, o network.EndpointOptions) error {
	return e.changeNetworks(ctx, container, func(c *Container, list []Endpoint) ([]Endpoint, error) {
		n, err := e.network.Find(ref)
		if err != nil {
			return nil, err
		}
		if err := e.canConnect(c, n, list); err != nil {
			return nil, err
		}
		if ended(c.State) && e.connected(list, n) {
			return list, nil // as it is
		}
		ep := Endpoint{Network: n.Name, EndpointOptions: o}
		if err := e.checkEndpoint(n, ep); err != nil {
			return nil, err
		}
		if !ended(c.State) {
			_, err := e.network.Connect(ctx, c.ID, c.attachment(n, ep))
			if err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) { // by one that died before it was noted
				return nil, err
			}
		}
		e.Emit("network", "connect", n.ID, map[string]string{"container": c.ID, "name": n.Name, "type": n.Driver})
		return append(list, ep), nil
	})
}

// DisconnectNetwork takes a container out of a network. Nothing of a container that is gone
// stays in a network, so force has nothing to add.
func (e *Engine) DisconnectNetwork(ctx context.Context, ref, container string, force bool) error {
	n, err := e.network.Find(ref)
	if errdefs.IsNotFound(err) {
		return e.forgetNetwork(ctx, ref, container, force, err)
	}
	if err != nil {
		return err
	}
	err = e.changeNetworks(ctx, container, func(c *Container, list []Endpoint) ([]Endpoint, error) {
		if n.Driver == "host" && c.Options.networkMode() == "host" {
			return nil, worded(errdefs.ErrInvalidArgument, "cannot disconnect container from host network - container was created in host network mode")
		}
		kept := slices.DeleteFunc(slices.Clone(list), func(ep Endpoint) bool { return e.sameNetwork(ep.Network, n) })
		at, err := e.network.Get(c.ID)
		if len(kept) == len(list) && (err != nil || at.In(n.ID) == nil) {
			// Docker's words differ by one; Terraform's provider takes those of a container that does not run for success.
			the := ""
			if ended(c.State) {
				the = "the "
			}
			return nil, worded(errdefs.ErrPermissionDenied, "container %s is not connected to %snetwork %s", c.ID, the, n.Name)
		}
		if !ended(c.State) {
			if _, err := e.network.Disconnect(ctx, c.ID, n.ID); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				return nil, err
			}
		}
		e.Emit("network", "disconnect", n.ID, map[string]string{"container": c.ID, "name": n.Name, "type": n.Driver})
		return kept, nil
	})
	if force && errors.Is(err, errdefs.ErrNotFound) {
		return worded(errdefs.ErrNotFound, "endpoint %s not found", container)
	}
	return err
}

// forgetNetwork takes a network that is gone out of the list of a container that would be in it.
func (e *Engine) forgetNetwork(ctx context.Context, ref, container string, force bool, gone error) error {
	return e.changeNetworks(ctx, container, func(c *Container, list []Endpoint) ([]Endpoint, error) {
		kept := slices.DeleteFunc(slices.Clone(list), func(ep Endpoint) bool { return ep.Network == ref })
		switch {
		case !ended(c.State) && !force:
			return nil, gone
		case len(kept) == len(list):
			return nil, worded(errdefs.ErrPermissionDenied, "container %s is not connected to the network %s", c.ID, ref)
		}
		return kept, nil
	})
}

// changeNetworks lets change replace the list of a container's networks, under its lock,
// and tells the container and its keeper.
func (e *Engine) changeNetworks(ctx context.Context, ref string, change func(*Container, []Endpoint) ([]Endpoint, error)) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	unlock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if c, err = e.load(c.ID); err != nil {
		return missing(err, ref)
	}
	list, err := e.endpoints(c)
	if err != nil {
		return err
	}
	before, err := e.network.Get(c.ID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if list, err = change(c, list); err != nil {
		return err
	}
	if err := statefile.Write(e.endpointsFile(c.ID), list, statefile.WriteOptions{Durable: true}); err != nil {
		return err
	}
	return e.networkChanged(ctx, c, before)
}

// networkChanged lets a running container and its keeper know.
func (e *Engine) networkChanged(ctx context.Context, c *Container, before network.Sandbox) error {
	if ended(c.State) {
		return nil
	}
	s, err := e.network.Get(c.ID)
	if err != nil {
		return err
	}
	if err := e.changeFiles(c, before, s); err != nil {
		return err
	}
	err = e.ask(ctx, c, func(k *keeper.Client) error { return k.Network(ctx, e.keeperNetwork(c.ID, s)) })
	if errors.Is(err, errdefs.ErrConflict) || errors.Is(err, errdefs.ErrUnavailable) {
		return nil // it has just ended
	}
	return err
}

// canConnect refuses what docker refuses.
func (e *Engine) canConnect(c *Container, n network.Network, list []Endpoint) error {
	switch mode := c.Options.networkMode(); {
	case n.Driver == "host" && mode != "host":
		return worded(errdefs.ErrInvalidArgument, "cannot connect container to host network - container must be created in host network mode")
	case mode == "host" || c.Options.networkContainer() != "":
		return worded(errdefs.ErrInvalidArgument, "container sharing network namespace with another container or host cannot be connected to any other network")
	case n.Driver == "null" || mode == "none":
		return worded(errdefs.ErrInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case !ended(c.State) && e.connected(list, n):
		return worded(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", c.Name, n.Name)
	}
	return nil
}

func (e *Engine) connected(list []Endpoint, n network.Network) bool {
	return slices.ContainsFunc(list, func(ep Endpoint) bool { return e.sameNetwork(ep.Network, n) })
}

func (e *Engine) sameNetwork(ref string, n network.Network) bool {
	if ref == n.Name || ref == n.ID {
		return true
	}
	other, err := e.network.Find(ref)
	return err == nil && other.ID == n.ID
}

// endpoints are the networks a container is or would be in: those it was created with,
// until one was connected or disconnected.
func (e *Engine) endpoints(c *Container) (list []Endpoint, err error) {
	err = statefile.Read(e.endpointsFile(c.ID), &list)
	if errdefs.IsNotFound(err) {
		return c.Options.endpoints(), nil
	}
	return list, err
}

// endpoints are the networks the options ask for, the one of Network first if it is one of them.
func (o *Options) endpoints() []Endpoint {
	mode := o.networkMode()
	if mode == "host" || mode == "none" || o.networkContainer() != "" {
		return nil
	}
	list := slices.Clone(o.Endpoints)
	first := Endpoint{Network: mode}
	i := slices.IndexFunc(list, func(ep Endpoint) bool { return ep.Network == mode || ep.Network == "default" && mode == "bridge" })
	if i >= 0 {
		first = list[i]
		first.Network = mode
		list = slices.Delete(list, i, i+1)
	}
	if i < 0 && len(list) > 0 && o.EndpointsOnly {
		return list
	}
	if first.MAC == "" {
		first.MAC = o.MacAddress
	}
	if mode != "bridge" && len(first.Links) == 0 {
		first.Links = o.Links
	}
	return append([]Endpoint{first}, list...)
}

// attachment is how a container is in a network, with the names it has there.
func (c *Container) attachment(n network.Network, ep Endpoint) network.Attachment {
	names := []string{c.Name}
	for _, name := range append(slices.Clone(ep.Aliases), c.ID[:12], c.Hostname) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return network.Attachment{Network: n, EndpointOptions: ep.EndpointOptions, Names: names}
}

// attachments are all networks of a container that starts.
func (e *Engine) attachments(c *Container) (list []network.Attachment, err error) {
	endpoints, err := e.endpoints(c)
	if err != nil {
		return nil, err
	}
	for _, ep := range endpoints {
		n, err := e.networkOf(ep)
		if err != nil {
			return nil, err
		}
		list = append(list, c.attachment(n, ep))
	}
	return list, nil
}

// networkOf finds the network of an endpoint, the default one without reading anything.
func (e *Engine) networkOf(ep Endpoint) (network.Network, error) {
	if ep.Network == "bridge" {
		return e.network.Default(), nil
	}
	return e.network.Find(ep.Network)
}

// nameNetworks replaces IDs of networks and their beginnings by names, so that a network is
// the same one whatever it was called. What is not there is left to be refused.
func (e *Engine) nameNetworks(o *Options) error {
	name := func(ref *string) error {
		if *ref == "" || *ref == "bridge" || strings.HasPrefix(*ref, "container:") {
			return nil
		}
		n, err := e.network.Find(*ref)
		if err == nil {
			*ref = n.Name
		}
		if errors.Is(err, errdefs.ErrNotFound) {
			return nil
		}
		return err
	}
	err := name(&o.Network)
	o.Endpoints = slices.Clone(o.Endpoints)
	for i := range o.Endpoints {
		err = errors.Join(err, name(&o.Endpoints[i].Network))
	}
	return err
}

// checkNetworks refuses networks that are not there and wishes that they cannot fulfil.
func (e *Engine) checkNetworks(o *Options) error {
	o.LinkIDs = nil
	for _, link := range o.Links {
		ref, _, _ := strings.Cut(link, ":")
		if o.networkMode() != "bridge" {
			break // a name, which may be given later
		}
		id, err := e.resolve(ref)
		if err != nil {
			return fmt.Errorf("could not get container for %s: %w", ref, err)
		}
		o.LinkIDs = append(o.LinkIDs, id)
	}
	const conflict = "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
	list := o.endpoints()
	if len(list) == 0 && len(o.Endpoints) > 1 {
		return worded(errdefs.ErrInvalidArgument, conflict)
	}
	if len(list) == 0 && slices.ContainsFunc(o.Endpoints, hasAddress) {
		return worded(errdefs.ErrInvalidArgument, noAddress)
	}
	seen := map[string]bool{}
	for _, ep := range list {
		n, err := e.networkOf(ep)
		if err != nil {
			return err
		}
		switch {
		case n.Driver == "host" || n.Driver == "null":
			return worded(errdefs.ErrInvalidArgument, conflict)
		case seen[n.ID]:
			return worded(errdefs.ErrInvalidArgument, "network %q is specified multiple times", n.Name)
		case n.ConfigOnly:
			return worded(errdefs.ErrPermissionDenied, "cannot attach to the configuration-only network %s", n.Name)
		}
		seen[n.ID] = true
		if err := e.checkEndpoint(n, ep); err != nil {
			return err
		}
	}
	return nil
}

const noAddress = "user specified IP address is supported on user defined networks only"

func hasAddress(ep Endpoint) bool { return ep.IPv4.IsValid() || ep.IPv6.IsValid() }

func (e *Engine) checkEndpoint(n network.Network, ep Endpoint) error {
	if err := ep.CheckDriverOpts(); err != nil {
		return worded(errdefs.ErrInvalidArgument, "invalid config for network %s: invalid endpoint settings:\n%s", n.Name, err)
	}
	if n.ID == e.network.Default().ID {
		if hasAddress(ep) {
			return worded(errdefs.ErrInvalidArgument, noAddress)
		}
		if len(ep.Aliases) > 0 {
			return worded(errdefs.ErrInvalidArgument, "network-scoped aliases are only supported for user-defined networks")
		}
		return nil
	}
	for _, want := range []netip.Addr{ep.IPv4, ep.IPv6} {
		if want.IsValid() && !slices.ContainsFunc(n.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Contains(want) }) {
			return worded(errdefs.ErrInvalidArgument, "invalid config for network %s: invalid endpoint settings:\nno configured subnet contains IP address %s", n.Name, want)
		}
	}
	return nil
}
