package runner

import (
	"context"
	"fmt"

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

// CreateNetwork defines a network; its interfaces are made when the first container
// comes. A name that is taken and a subnet that overlaps another are errdefs.ErrConflict.
func (e *Engine) CreateNetwork(ctx context.Context, o network.CreateOptions) (network.Network, error) {
	return network.Network{}, fmt.Errorf("networks: %w", errdefs.ErrNotImplemented)
}

// Networks returns the networks that pass docker's filters (driver, id, label, name,
// scope, type, dangling), by name. An unknown filter is an errdefs.ErrInvalidArgument.
func (e *Engine) Networks(ctx context.Context, filters map[string][]string) ([]network.Network, error) {
	return nil, fmt.Errorf("networks: %w", errdefs.ErrNotImplemented)
}

// Network finds a network by name, ID or the beginning of an ID.
func (e *Engine) Network(ctx context.Context, ref string) (network.Network, error) {
	return network.Network{}, worded(errdefs.ErrNotFound, "network %s not found", ref)
}

// InspectNetwork finds a network and the running containers in it.
func (e *Engine) InspectNetwork(ctx context.Context, ref string) (*NetworkInspection, error) {
	n, err := e.Network(ctx, ref)
	return &NetworkInspection{Network: n}, err
}

// RemoveNetwork removes a network no running container is in. One that is in use is an
// errdefs.ErrFailedPrecondition or errdefs.ErrPermissionDenied, as docker's API answers 403.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	_, err := e.Network(ctx, ref)
	return err
}

// PruneNetworks removes the networks no container is in, and returns their names.
// Docker's filters label and until say which.
func (e *Engine) PruneNetworks(ctx context.Context, filters map[string][]string) ([]string, error) {
	return nil, fmt.Errorf("networks: %w", errdefs.ErrNotImplemented)
}

// ConnectNetwork puts a container into a network, at once if it runs, and at every start.
func (e *Engine) ConnectNetwork(ctx context.Context, ref, container string, o network.EndpointOptions) error {
	_, err := e.Network(ctx, ref)
	return err
}

// DisconnectNetwork takes a container out of a network. With force a container that is
// gone is no error.
func (e *Engine) DisconnectNetwork(ctx context.Context, ref, container string, force bool) error {
	_, err := e.Network(ctx, ref)
	return err
}
