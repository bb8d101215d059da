package network

import (
	"net/netip"
	"time"
)

// Network is a network as it was defined, in the shape of docker's API (1.51, Network).
type Network struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string // always local
	Driver     string // bridge, host, null, macvlan or ipvlan
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       IPAM
	Internal   bool // no way out
	Attachable bool // kept for who asks; every network here is
	Ingress    bool
	ConfigFrom ConfigReference
	ConfigOnly bool
	Options    map[string]string // of the driver
	Labels     map[string]string
}

// IPAM says which addresses a network has.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []IPAMConfig
}

// IPAMConfig is one subnet of a network.
type IPAMConfig struct {
	Subnet             netip.Prefix          `json:",omitzero"`
	IPRange            netip.Prefix          `json:",omitzero"` // where addresses are taken from; zero is all of Subnet
	Gateway            netip.Addr            `json:",omitzero"`
	AuxiliaryAddresses map[string]netip.Addr `json:",omitempty"` // never given out
}

// ConfigReference names the network whose configuration is used.
type ConfigReference struct{ Network string }

// CreateOptions define a network. The zero value is a bridge with a subnet of its own.
type CreateOptions struct {
	Name       string
	Driver     string // "" is bridge
	Options    map[string]string
	Labels     map[string]string
	IPAMDriver string // "" is default
	IPAMOption map[string]string
	IPAM       []IPAMConfig // what is missing is chosen
	Internal   bool
	Attachable bool
	Ingress    bool
	EnableIPv4 *bool // nil is true
	EnableIPv6 *bool // nil is whether IPAM has an IPv6 subnet
	ConfigOnly bool
	ConfigFrom string
}

// EndpointOptions say how a container is in a network. The zero value lets all be chosen.
type EndpointOptions struct {
	Aliases      []string          `json:",omitempty"`
	Links        []string          `json:",omitempty"` // CONTAINER[:ALIAS]
	IPv4         netip.Addr        `json:",omitzero"`
	IPv6         netip.Addr        `json:",omitzero"`
	LinkLocalIPs []netip.Addr      `json:",omitempty"`
	MAC          string            `json:",omitempty"`
	DriverOpts   map[string]string `json:",omitempty"`
	GwPriority   int               `json:",omitempty"` // the highest gives the default route
}
