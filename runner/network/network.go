// Package network gives containers a network: a bridge with NAT to the outside, an
// address, and published ports.
//
// A container's network namespace is bind-mounted at RunRoot/netns/ID, so it belongs to
// no process and outlives all of them. Everything is done by netlink and nftables;
// nothing here executes a program.
//
//	host                                        namespace ID
//	uplink --- NAT --- teu0 (bridge) --- veth ====== eth0
//
// All state is volatile, as the network itself is:
//
//	RunRoot/network/bridge.json      name and subnet of the bridge
//	RunRoot/network/endpoints/ID     address and ports of an attached container
//	RunRoot/netns/ID                 its namespace
//
// The rules of all endpoints live in one nftables table, which is replaced as a whole
// (rules.go). A store with another RunRoot has a bridge, a subnet and a table of its own.
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
)

// DefaultRunRoot is the RunRoot whose bridge is called teu0.
const DefaultRunRoot = "/run/teu"

// Manager attaches containers to the default bridge. It holds no state in memory:
// several processes may have one for the same RunRoot.
type Manager struct {
	runRoot string
	name    string // of the bridge and of the nftables table
}

// New returns the Manager of runRoot. Nothing is made before the first Attach.
func New(runRoot string) *Manager {
	name := "teu0"
	if runRoot != DefaultRunRoot {
		sum := sha256.Sum256([]byte(runRoot))
		name = "teu" + hex.EncodeToString(sum[:4])
	}
	return &Manager{runRoot: runRoot, name: name}
}

// Port is a port of a container made reachable on the host.
type Port struct {
	Protocol  string     // "tcp" or "udp"
	HostIP    netip.Addr // the zero Addr means every address of the host
	HostPort  uint16     // 0 lets Attach choose
	Container uint16
}

// Options say how a container is attached.
type Options struct {
	Ports []Port
	// Owner, if set, is the process the attachment is for. Once it is gone, whoever
	// comes next detaches what it left behind. A container has none: its record is the owner.
	Owner *statefile.Process
}

// Endpoint is a container's place in the network.
type Endpoint struct {
	ID      string
	NetNS   string // path of the namespace
	Address netip.Prefix
	Gateway netip.Addr
	MAC     string
	Veth    string // the host's end of the pair
	Ports   []Port // HostPort chosen
	Bridge  string
	Owner   *statefile.Process `json:",omitempty"`
}

// NetNSPath returns where the namespace of container id is, or would be.
func (m *Manager) NetNSPath(id string) string { return filepath.Join(m.runRoot, "netns", id) }

func (m *Manager) dir() string             { return filepath.Join(m.runRoot, "network") }
func (m *Manager) record(id string) string { return filepath.Join(m.dir(), "endpoints", id) }
func (m *Manager) bridgeRecord() string    { return filepath.Join(m.dir(), "bridge.json") }
func (m *Manager) lock(ctx context.Context) (func() error, error) {
	return statefile.Lock(ctx, filepath.Join(m.dir(), "lock"), statefile.LockOptions{})
}

// Attach makes the namespace of container id, connects it to the bridge and publishes
// its ports. An endpoint that exists already is an errdefs.ErrAlreadyExists; a host port
// in use is an errdefs.ErrConflict. On error nothing is left behind.
func (m *Manager) Attach(ctx context.Context, id string, o Options) (ep Endpoint, err error) {
	if err := m.makeDirs(); err != nil {
		return Endpoint{}, err
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return Endpoint{}, fmt.Errorf("locking the network: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()

	present, err := m.sweep()
	if err != nil {
		return Endpoint{}, err
	}
	if _, ok := present[id]; ok {
		return Endpoint{}, fmt.Errorf("network endpoint of %s: %w", id, errdefs.ErrAlreadyExists)
	}
	br, err := m.ensureBridge()
	if err != nil {
		return Endpoint{}, fmt.Errorf("bridge %s: %w", m.name, err)
	}
	ep = Endpoint{ID: id, NetNS: m.NetNSPath(id), Gateway: br.Subnet.Addr(), Bridge: m.name, Owner: o.Owner}
	if ep.Address, err = freeAddress(br.Subnet, present); err != nil {
		return Endpoint{}, err
	}
	ep.MAC, ep.Veth = macOf(ep.Address.Addr()).String(), vethName()
	if ep.Ports, err = choosePorts(o.Ports, present); err != nil {
		return Endpoint{}, err
	}
	// The record comes first: whatever is made after it is found and unmade by Detach.
	if err := statefile.Write(m.record(id), ep, statefile.WriteOptions{}); err != nil {
		return Endpoint{}, err
	}
	present[id] = ep
	err = m.connect(ep, br)
	if err == nil {
		err = m.applyRules(br, present, len(ep.Ports) > 0)
	}
	if err != nil {
		delete(present, id)
		return Endpoint{}, errors.Join(fmt.Errorf("connecting %s to %s: %w", id, m.name, err), m.remove(ep, br, present))
	}
	return ep, nil
}

// Detach takes container id off the network and removes its namespace. Detaching what is
// not attached is no error.
func (m *Manager) Detach(ctx context.Context, id string) (err error) {
	if _, err := os.Lstat(m.record(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return fmt.Errorf("locking the network: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.endpoints()
	if err != nil {
		return err
	}
	ep, ok := present[id]
	if !ok {
		return nil
	}
	delete(present, id)
	var br bridge
	if err := statefile.Read(m.bridgeRecord(), &br); err != nil {
		return err
	}
	return m.remove(ep, br, present)
}

// Get returns the endpoint of container id, or an errdefs.ErrNotFound.
func (m *Manager) Get(id string) (Endpoint, error) {
	var ep Endpoint
	err := statefile.Read(m.record(id), &ep)
	return ep, err
}

// Reset removes the bridge and the rules of this RunRoot. It is a conflict while
// anything is attached.
func (m *Manager) Reset(ctx context.Context) (err error) {
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
	if err := errors.Join(m.dropRules(), removeLink(m.name)); err != nil {
		return err
	}
	return os.RemoveAll(m.bridgeRecord())
}

func (m *Manager) makeDirs() error {
	for _, dir := range []string{filepath.Join(m.dir(), "endpoints"), filepath.Join(m.runRoot, "netns")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("making the network's directories: %w", err)
		}
	}
	return nil
}

// remove unmakes ep, whose record is still there and which present does not hold any more.
// The record goes last, so a process that dies here leaves work for the next one.
func (m *Manager) remove(ep Endpoint, br bridge, present map[string]Endpoint) error {
	var errs []error
	if len(ep.Ports) > 0 {
		errs = append(errs, m.applyRules(br, present, true))
	}
	errs = append(errs, removeNetNS(ep.NetNS))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(m.record(ep.ID))
}

// endpoints reads every record. The caller holds the lock.
func (m *Manager) endpoints() (map[string]Endpoint, error) {
	dir := filepath.Join(m.dir(), "endpoints")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	present := make(map[string]Endpoint, len(entries))
	for _, e := range entries {
		var ep Endpoint
		err := statefile.Read(filepath.Join(dir, e.Name()), &ep)
		if errdefs.IsNotFound(err) || ep.ID != e.Name() && err == nil {
			continue // a temporary file of a writer that died
		}
		if err != nil {
			return nil, err
		}
		present[ep.ID] = ep
	}
	return present, nil
}

// sweep detaches the endpoints whose owners are gone and returns the others.
func (m *Manager) sweep() (map[string]Endpoint, error) {
	present, err := m.endpoints()
	if err != nil {
		return nil, err
	}
	var br bridge
	if err := statefile.Read(m.bridgeRecord(), &br); err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	for id, ep := range present {
		if ep.Owner == nil || ep.Owner.Alive() {
			continue
		}
		delete(present, id)
		if err := m.remove(ep, br, present); err != nil {
			return nil, fmt.Errorf("detaching %s, whose owner is gone: %w", id, err)
		}
	}
	return present, nil
}
