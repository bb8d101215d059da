// Package network gives containers a network: bridges with NAT to the outside, addresses,
// names, and published ports; or an interface of the host's by macvlan and ipvlan.
//
// A container's network namespace is bind-mounted at RUNROOT/netns/ID, so it belongs to
// no process and outlives all of them. Everything is done by netlink and nftables;
// nothing here executes a program, but for the few instructions of runner/userns.
//
//	host                                        namespace ID
//	uplink --- NAT --- teu0 (bridge) --- veth ====== eth0
//	             \---- br-NETWORK ------ veth ====== eth1
//
// What users define is kept, everything else is volatile, as the network itself is:
//
//	ROOT/networks/ID.json            a network
//	RUNROOT/network/bridge.json      subnet of the default bridge
//	RUNROOT/network/endpoints/ID     a container's sandbox: its addresses and ports
//	RUNROOT/network/shares/ID -> X   container ID is in the namespace of container X
//	RUNROOT/network/zones/NETWORK    names and addresses of a network, for runner/dns
//	RUNROOT/network/dns/ID           which of them a container sees, and who else is asked
//	RUNROOT/netns/ID                 its namespace
//
// The rules of all networks live in one nftables table, which is replaced as a whole
// (rules.go). A store with another RUNROOT has a bridge, subnets and a table of its own.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
)

// defaultRunRoot is the RunRoot whose bridge is called teu0.
const defaultRunRoot = "/run/teu"

// Manager attaches containers to networks. It holds no state in memory: several
// processes may have one for the same RunRoot.
type Manager struct {
	// Self is teu's command line as far as words of a command follow: "network outlet" is
	// executed where an ordinary user's containers need a way out.
	Self []string

	root    string // "" has no networks but the default ones
	runRoot string
	name    string // of the default bridge and of the nftables table
	ground  func() string
}

// New returns a Manager of the default bridge of runRoot, for who needs no other network.
// Nothing is made before the first Attach.
func New(runRoot string) *Manager { return Open("", runRoot) }

// Open returns the Manager of the networks defined below root.
func Open(root, runRoot string) *Manager {
	m := &Manager{root: root, runRoot: runRoot, name: nameOf(runRoot)}
	m.ground = sync.OnceValue(m.findGround)
	return m
}

// Port is a port of a container made reachable on the host.
type Port struct {
	Protocol  string     // "tcp", "udp" or "sctp"
	HostIP    netip.Addr // the zero Addr means every address of the host
	HostPort  uint16     // 0 lets Attach choose; in a Sandbox it says that there is none
	HostEnd   uint16     `json:",omitempty"` // if set, Attach chooses from HostPort to it
	Container uint16
}

// Options say how a container is attached.
type Options struct {
	Networks []Attachment // none means the default bridge
	Ports    []Port
	// Servers are asked for names the networks do not know.
	Servers []dns.Server
	// Owner, if set, is the process the attachment is for. Once it is gone, whoever
	// comes next detaches what it left behind. A container has none: its record is the owner.
	Owner *statefile.Process
	// UIDs and GIDs are the IDs of a user namespace that is made for the network namespace
	// to belong to; none: it belongs to ours.
	UIDs, GIDs []specs.LinuxIDMapping
	// User, unless nil, is the user namespace it belongs to instead.
	User *os.File
}

// Attachment is one network a container is to be in.
type Attachment struct {
	Network Network
	EndpointOptions
	Names []string // by which the network's other containers find it, its own name first
}

// Sandbox is a container's network namespace and what is in it.
type Sandbox struct {
	ID        string
	NetNS     string // path of the namespace
	Endpoints []Endpoint
	Ports     []Port             // HostPort chosen
	Servers   []dns.Server       `json:",omitempty"`
	DNSPort   uint16             `json:",omitempty"` // where the keeper answers inside, on 127.0.0.11
	Idle      bool               `json:",omitempty"` // its container has ended; others share the namespace
	Owner     *statefile.Process `json:",omitempty"`
}

// Endpoint is a container's place in one network.
type Endpoint struct {
	ID          string
	Network     string // its ID
	NetworkName string
	Driver      string
	Internal    bool         `json:",omitempty"`
	Routed      bool         `json:",omitempty"` // the interface is the way out, without a gateway
	Bridge      string       `json:",omitempty"`
	Interface   string       // inside, such as eth0
	Veth        string       `json:",omitempty"` // the host's end of the pair
	Address     netip.Prefix `json:",omitzero"`
	Address6    netip.Prefix `json:",omitzero"`
	Gateway     netip.Addr   `json:",omitzero"`
	Gateway6    netip.Addr   `json:",omitzero"`
	LinkLocal   []netip.Addr `json:",omitempty"`
	MAC         string
	Names       []string `json:",omitempty"`
	Links       []string `json:",omitempty"`
	Priority    int      `json:",omitempty"`
}

// NetNSPath returns where the namespace of container id is, or would be.
func (m *Manager) NetNSPath(id string) string { return filepath.Join(m.runRoot, "netns", id) }

func (m *Manager) dir() string                { return filepath.Join(m.runRoot, "network") }
func (m *Manager) record(id string) string    { return filepath.Join(m.dir(), "endpoints", id) }
func (m *Manager) share(id string) string     { return filepath.Join(m.dir(), "shares", id) }
func (m *Manager) zone(network string) string { return filepath.Join(m.dir(), "zones", network) }
func (m *Manager) bridgeRecord() string       { return filepath.Join(m.dir(), "bridge.json") }

// DNSFile is the dns.Config of container id. It is there while the container is in a
// network that has names.
func (m *Manager) DNSFile(id string) string { return filepath.Join(m.dir(), "dns", id) }

// lock takes the network's lock and moves the thread to the ground, see grounded.
func (m *Manager) lock(ctx context.Context) (func() error, error) {
	if err := m.makeDirs(); err != nil {
		return nil, err
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(m.dir(), "lock"), statefile.LockOptions{})
	if err != nil {
		return nil, fmt.Errorf("locking the network: %w", err)
	}
	if err := m.standOn(); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return unlock, nil
}

func (m *Manager) makeDirs() error {
	for _, dir := range []string{filepath.Join(m.dir(), "endpoints"), filepath.Join(m.runRoot, "netns")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("making the network's directories: %w", err)
		}
	}
	return nil
}

// Main is the endpoint that has the published ports and, where it has a gateway, the
// default route. It is nil where nothing leads out.
func (s *Sandbox) Main() *Endpoint {
	if ep := defaultRoute(s.Endpoints, false); ep != nil {
		return ep
	}
	return defaultRoute(s.Endpoints, true)
}

// defaultRoute picks the endpoint that leads out by a family: of the highest priority, then
// the first by the network's name, as docker does.
func defaultRoute(list []Endpoint, six bool) (best *Endpoint) {
	for i := range list {
		ep := &list[i]
		leads := ep.Gateway.IsValid() || ep.Routed && ep.Address.IsValid()
		if six {
			leads = ep.Gateway6.IsValid()
		}
		if ep.Internal || !leads {
			continue
		}
		if best == nil || ep.Priority > best.Priority || ep.Priority == best.Priority && ep.NetworkName < best.NetworkName {
			best = ep
		}
	}
	return best
}

// In returns the endpoint in a network, by the network's ID, or nil.
func (s *Sandbox) In(network string) *Endpoint {
	i := slices.IndexFunc(s.Endpoints, func(ep Endpoint) bool { return ep.Network == network })
	if i < 0 {
		return nil
	}
	return &s.Endpoints[i]
}

// Get returns the sandbox of container id, or an errdefs.ErrNotFound.
func (m *Manager) Get(id string) (Sandbox, error) {
	var s Sandbox
	err := statefile.Read(m.record(id), &s)
	return s, err
}

// Members returns the sandboxes in a network, by its ID.
func (m *Manager) Members(network string) ([]Sandbox, error) {
	present, err := m.sandboxes()
	if err != nil {
		return nil, err
	}
	var list []Sandbox
	for _, s := range sorted(present) {
		if s.In(network) != nil && !s.Idle {
			list = append(list, s)
		}
	}
	return list, nil
}

// sandboxes reads every record.
func (m *Manager) sandboxes() (map[string]Sandbox, error) {
	dir := filepath.Join(m.dir(), "endpoints")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	present := make(map[string]Sandbox, len(entries))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // a temporary file, perhaps of a writer that died
		}
		var s Sandbox
		err := statefile.Read(filepath.Join(dir, e.Name()), &s)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		present[s.ID] = s
	}
	return present, nil
}

func sorted(present map[string]Sandbox) []Sandbox {
	list := make([]Sandbox, 0, len(present))
	for _, s := range present {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Sandbox) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Sweep detaches what processes that are gone have left behind. Attach does so too.
func (m *Manager) Sweep(ctx context.Context) error {
	if left, err := m.abandoned(); err != nil || !left {
		return err
	}
	return m.alone(func() (err error) {
		unlock, err := m.lock(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		_, err = m.sweep()
		return err
	})
}

// abandoned says whether there is something for Sweep to do.
func (m *Manager) abandoned() (bool, error) {
	present, err := m.sandboxes()
	for _, s := range present {
		if s.Owner != nil && !s.Owner.Alive() {
			return true, nil
		}
	}
	return false, err
}

// sweep detaches the sandboxes whose owners are gone and returns the others.
func (m *Manager) sweep() (map[string]Sandbox, error) {
	present, err := m.sandboxes()
	if err != nil {
		return nil, err
	}
	for id, s := range present {
		if s.Owner == nil || s.Owner.Alive() {
			continue
		}
		delete(present, id)
		if err := m.remove(s, present); err != nil {
			return nil, fmt.Errorf("detaching %s, whose owner is gone: %w", id, err)
		}
	}
	return present, nil
}

// Reset removes all bridges and rules of this RunRoot. It is a conflict while anything
// is attached. Definitions stay.
func (m *Manager) Reset(ctx context.Context) error {
	return m.alone(func() error { return m.reset(ctx) })
}

func (m *Manager) reset(ctx context.Context) (err error) {
	if _, err := os.Lstat(m.dir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sweep()
	if err != nil {
		return err
	}
	if len(present) > 0 {
		return fmt.Errorf("bridge %s has %d endpoints: %w", m.name, len(present), errdefs.ErrConflict)
	}
	defined, err := m.defined()
	if err != nil {
		return err
	}
	errs := []error{m.dropRules(), removeLink(m.name)}
	for _, n := range defined {
		errs = append(errs, m.unmake(n))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(m.bridgeRecord()), m.removeGround())
}
