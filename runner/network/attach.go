package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// Attach makes the namespace of container id, connects it to its networks and publishes
// its ports. A sandbox that exists already is an errdefs.ErrAlreadyExists, unless it was
// kept for those who share it; a host port in use is an errdefs.ErrConflict. On error
// nothing is left behind.
func (m *Manager) Attach(ctx context.Context, id string, o Options) (Sandbox, error) {
	return grounded(m, func() (Sandbox, error) { return m.attach(ctx, id, o) })
}

func (m *Manager) attach(ctx context.Context, id string, o Options) (s Sandbox, err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sweep()
	if err != nil {
		return Sandbox{}, err
	}
	if len(o.Networks) == 0 {
		o.Networks = []Attachment{{Network: m.Default()}}
	}
	if old, ok := present[id]; ok {
		if !old.Idle {
			return Sandbox{}, fmt.Errorf("network endpoint of %s: %w", id, errdefs.ErrAlreadyExists)
		}
		if held(old.NetNS) {
			return m.revive(old, o, present)
		}
		delete(present, id) // whoever took it away has died before the record went
		if err := m.remove(old, present); err != nil {
			return Sandbox{}, err
		}
	}
	s = Sandbox{ID: id, NetNS: m.NetNSPath(id), Owner: o.Owner, Servers: o.Servers}
	plan, err := m.choose(&s, o, present)
	if err != nil {
		return Sandbox{}, err
	}
	if len(present) >= crowd {
		makeRoom("/proc/sys")
	}
	// The record comes first: whatever is made after it is found and unmade by Detach.
	if err := m.save(s, present); err != nil {
		return Sandbox{}, err
	}
	err = m.build(s, plan, entering{fresh: true, uids: o.UIDs, gids: o.GIDs, user: o.User})
	if err == nil {
		err = m.publish(s, present, len(s.Ports) > 0 || anyMade(plan))
	}
	if err != nil {
		delete(present, id)
		return Sandbox{}, errors.Join(fmt.Errorf("connecting %s: %w", id, err), m.remove(s, present))
	}
	return s, nil
}

// wire is an endpoint with the network it is made in.
type wire struct {
	ep      Endpoint
	br      bridge
	made    bool // the bridge was not there
	n       Network
	sysctls []sysctl // of the interface
}

func anyMade(plan []wire) bool { return slices.ContainsFunc(plan, func(w wire) bool { return w.made }) }

// choose settles addresses, names and ports of a new sandbox.
func (m *Manager) choose(s *Sandbox, o Options, present map[string]Sandbox) (plan []wire, err error) {
	var wanted []string
	for _, a := range o.Networks {
		if name := a.DriverOpts[interfaceOpt]; name != "" {
			wanted = append(wanted, name)
		}
	}
	for _, a := range o.Networks {
		w, err := m.place(s, a, wanted, present)
		if err != nil {
			return nil, err
		}
		s.Endpoints = append(s.Endpoints, w.ep)
		plan = append(plan, w)
	}
	if s.Ports, err = s.choosePorts(o, present); err != nil {
		return nil, err
	}
	return plan, m.addDNS(s)
}

// choosePorts settles the ports of s, whose endpoints are settled.
func (s *Sandbox) choosePorts(o Options, present map[string]Sandbox) ([]Port, error) {
	main := s.Main()
	i := slices.IndexFunc(o.Networks, func(a Attachment) bool { return main != nil && a.Network.ID == main.Network })
	if i < 0 {
		return choosePorts(o.Ports, nil, bridge{}, present)
	}
	return choosePorts(o.Ports, main, bridgeOf(o.Networks[i].Network), present)
}

// interfaceOpt names the interface of an endpoint.
const interfaceOpt = "com.docker.network.endpoint.ifname"

// place settles one endpoint of s. The names of interfaces in wanted are others'.
func (m *Manager) place(s *Sandbox, a Attachment, wanted []string, present map[string]Sandbox) (wire, error) {
	n := a.Network
	w := wire{n: n}
	if err := m.still(n); err != nil {
		return w, err
	}
	name, err := chooseInterface(s, n, a, wanted)
	if err != nil {
		return w, err
	}
	if w.sysctls, err = a.sysctls(); err != nil {
		return w, err
	}
	if n.Driver == "bridge" {
		if w.br, w.made, err = m.ensureBridge(n); err != nil {
			return w, fmt.Errorf("bridge of network %s: %w", n.Name, err)
		}
	} else if err := m.ensureParent(n); err != nil {
		return w, fmt.Errorf("network %s: %w", n.Name, err)
	}
	w.ep = Endpoint{
		ID: newID(), Network: n.ID, NetworkName: n.Name, Driver: n.Driver, Internal: n.Internal, Bridge: w.br.Name, Routed: routed(n),
		Interface: name, LinkLocal: a.LinkLocalIPs, MAC: a.MAC, Names: a.Names, Links: a.Links, Priority: a.GwPriority,
	}
	if err := chooseAddresses(&w.ep, n, w.br, a, present); err != nil {
		return w, err
	}
	if w.ep.MAC == "" && n.Driver != "ipvlan" { // ipvlan has its parent's
		w.ep.MAC = macFor(w.ep)
	}
	if n.Driver == "bridge" {
		w.ep.Veth = vethName()
	}
	return w, nil
}

// chooseInterface is the name of an interface that the sandbox does not have yet.
func chooseInterface(s *Sandbox, n Network, a Attachment, wanted []string) (string, error) {
	taken := func(name string) bool {
		return slices.ContainsFunc(s.Endpoints, func(ep Endpoint) bool { return ep.Interface == name })
	}
	if name := a.DriverOpts[interfaceOpt]; name != "" {
		if taken(name) {
			return "", worded(errdefs.ErrConflict, "error renaming interface to %s: file exists", name)
		}
		return name, nil
	}
	prefix := n.Options["com.docker.network.container_iface_prefix"]
	if prefix == "" {
		prefix = "eth"
	}
	for i := 0; ; i++ {
		if name := fmt.Sprint(prefix, i); !taken(name) && !slices.Contains(wanted, name) {
			return name, nil
		}
	}
}

// addDNS gives the sandbox a port for the keeper's responder if a network has names.
// It is outside the kernel's ephemeral ports (ip_local_port_range), so that nothing in the
// container takes it by chance.
func (m *Manager) addDNS(s *Sandbox) error {
	named := slices.ContainsFunc(s.Endpoints, func(ep Endpoint) bool { return m.hasNames(ep.Network) })
	if !named || s.DNSPort != 0 {
		return nil
	}
	n, err := rand.Int(rand.Reader, big.NewInt(4000))
	s.DNSPort = uint16(61100 + n.Int64())
	return err
}

// hasNames says whether containers find each other by name: in all networks but the default.
func (m *Manager) hasNames(network string) bool { return network != m.Default().ID }

// save writes the record of s and puts it among the present.
func (m *Manager) save(s Sandbox, present map[string]Sandbox) error {
	present[s.ID] = s
	return statefile.Write(m.record(s.ID), s, statefile.WriteOptions{})
}

// publish makes names and rules follow the present sandboxes, of which s has changed.
func (m *Manager) publish(s Sandbox, present map[string]Sandbox, rules bool) error {
	if err := m.applyRules(present, rules); err != nil {
		return err
	}
	return m.writeNames(s, present)
}

// Detach takes container id off its networks and removes its namespace, or keeps that for
// the containers that share it. Detaching what is not attached is no error.
func (m *Manager) Detach(ctx context.Context, id string) error {
	return m.alone(func() error { return m.detach(ctx, id) })
}

func (m *Manager) detach(ctx context.Context, id string) (err error) {
	_, noRecord := os.Lstat(m.record(id))
	_, noShare := os.Lstat(m.share(id))
	if errors.Is(noRecord, fs.ErrNotExist) && errors.Is(noShare, fs.ErrNotExist) {
		return nil
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sandboxes()
	if err != nil {
		return err
	}
	if noShare == nil {
		if err := m.unshare(id, present); err != nil {
			return err
		}
	}
	s, ok := present[id]
	if !ok {
		return nil
	}
	users, err := m.users(id)
	if err != nil {
		return err
	}
	delete(present, id)
	if len(users) > 0 {
		return m.rest(s, present)
	}
	return m.remove(s, present)
}

// remove unmakes s, whose record is still there and which present does not hold any more.
// The record goes last, so a process that dies here leaves work for the next one.
func (m *Manager) remove(s Sandbox, present map[string]Sandbox) error {
	var errs []error
	if len(s.Ports) > 0 {
		errs = append(errs, m.applyRules(present, true))
	}
	errs = append(errs, m.writeNames(s, present), os.RemoveAll(m.DNSFile(s.ID)), removeNetNS(s.NetNS))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(m.record(s.ID))
}

// rest keeps the namespace of a container that has ended for those who share it.
func (m *Manager) rest(s Sandbox, present map[string]Sandbox) error {
	published := len(s.Ports) > 0
	s.Idle, s.Ports = true, nil
	return errors.Join(m.save(s, present), m.publish(s, present, published))
}

// revive gives a container that starts again the namespace that was kept.
func (m *Manager) revive(s Sandbox, o Options, present map[string]Sandbox) (_ Sandbox, err error) {
	old := s.Endpoints
	s.Idle, s.Endpoints, s.Servers = false, nil, o.Servers
	var fresh, stale []wire
	for _, a := range o.Networks {
		i := slices.IndexFunc(old, func(ep Endpoint) bool { return ep.Network == a.Network.ID })
		if i < 0 {
			continue
		}
		ep := old[i]
		ep.Names, ep.Links, ep.Priority = a.Names, a.Links, a.GwPriority
		s.Endpoints = append(s.Endpoints, ep)
		old = slices.Delete(old, i, i+1)
	}
	for _, a := range o.Networks {
		if s.In(a.Network.ID) != nil {
			continue
		}
		w, err := m.place(&s, a, nil, present)
		if err != nil {
			return Sandbox{}, err
		}
		s.Endpoints = append(s.Endpoints, w.ep)
		fresh = append(fresh, w)
	}
	for _, ep := range old {
		stale = append(stale, wire{ep: ep})
	}
	if s.Ports, err = s.choosePorts(o, present); err != nil {
		return Sandbox{}, err
	}
	if err := errors.Join(m.addDNS(&s), m.save(s, present)); err != nil {
		return Sandbox{}, err
	}
	if len(stale) > 0 {
		err = m.unplug(s, stale)
	}
	if err == nil && len(fresh) > 0 {
		err = m.build(s, fresh, entering{})
	}
	if err == nil {
		err = m.publish(s, present, true)
	}
	if err != nil {
		return Sandbox{}, errors.Join(err, m.rest(s, present))
	}
	return s, nil
}

// Share notes that container user is in the namespace of container owner, whose first
// process is init, and returns the namespace's path. The note goes with the user's Detach.
// An owner that has ended is an errdefs.ErrNotFound.
func (m *Manager) Share(ctx context.Context, owner string, init statefile.Process, user string) (string, error) {
	return grounded(m, func() (string, error) { return m.shareWith(ctx, owner, init, user) })
}

func (m *Manager) shareWith(ctx context.Context, owner string, init statefile.Process, user string) (netns string, err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	s, err := m.Get(owner)
	made := errdefs.IsNotFound(err)
	switch {
	case made: // it has no network
		s = Sandbox{ID: owner, NetNS: m.NetNSPath(owner)}
		if err := statefile.Write(m.record(owner), s, statefile.WriteOptions{}); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	case s.Idle:
		return "", fmt.Errorf("network namespace of %s: %w", owner, errdefs.ErrNotFound)
	}
	if !held(s.NetNS) { // nor is it if the first who shared it has died before he could
		if err := m.hold(s, init); err != nil {
			err = errors.Join(err, removeNetNS(s.NetNS))
			if made {
				err = errors.Join(err, os.Remove(m.record(owner)))
			}
			return "", err
		}
	}
	if err := os.MkdirAll(filepath.Dir(m.share(user)), 0o711); err != nil {
		return "", err
	}
	if err := os.Remove(m.share(user)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return s.NetNS, os.Symlink(owner, m.share(user))
}

// hold keeps the namespace of s, in which init is, from now on. After the end of init its number may be another process's.
func (m *Manager) hold(s Sandbox, init statefile.Process) error {
	err := holdNetNS(fmt.Sprintf("/proc/%d/ns/net", init.PID), s.NetNS)
	if errors.Is(err, fs.ErrNotExist) || !init.Alive() { // one that is just ending has no namespaces
		return fmt.Errorf("network namespace of %s: %w", s.ID, errdefs.ErrNotFound)
	}
	return err
}

// Resume is Attach for a container without networks: it has the namespace again that was kept for those who share it, if there
// is one. The path is empty if not.
func (m *Manager) Resume(ctx context.Context, id string) (netns string, err error) {
	if _, err := os.Lstat(m.record(id)); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return grounded(m, func() (string, error) { return m.resume(ctx, id) })
}

func (m *Manager) resume(ctx context.Context, id string) (netns string, err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	s, err := m.Get(id)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !held(s.NetNS) {
		return "", errors.Join(removeNetNS(s.NetNS), os.Remove(m.record(id)))
	}
	s.Idle = false // or the last of the others would take it along
	return s.NetNS, statefile.Write(m.record(id), s, statefile.WriteOptions{})
}

// unshare ends a share; the last one of a container that has ended takes the namespace along. The note goes last:
// without it nobody would come back for the rest.
func (m *Manager) unshare(user string, present map[string]Sandbox) error {
	owner, err := os.Readlink(m.share(user))
	if err != nil {
		return err
	}
	users, err := m.users(owner)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(users, func(id string) bool { return id == user })
	if s, ok := present[owner]; ok && s.Idle && len(others) == 0 {
		delete(present, owner)
		if err := m.remove(s, present); err != nil {
			return err
		}
	}
	return os.Remove(m.share(user))
}

// users lists the containers that share the namespace of owner.
func (m *Manager) users(owner string) (list []string, err error) {
	entries, err := os.ReadDir(filepath.Join(m.dir(), "shares"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if target, err := os.Readlink(m.share(e.Name())); err == nil && target == owner {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

// Connect puts a container that is attached into one more network.
func (m *Manager) Connect(ctx context.Context, id string, a Attachment) (Sandbox, error) {
	return grounded(m, func() (Sandbox, error) { return m.connect(ctx, id, a) })
}

func (m *Manager) connect(ctx context.Context, id string, a Attachment) (s Sandbox, err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sweep()
	if err != nil {
		return Sandbox{}, err
	}
	before, ok := present[id]
	if !ok {
		return Sandbox{}, fmt.Errorf("network endpoint of %s: %w", id, errdefs.ErrNotFound)
	}
	if before.In(a.Network.ID) != nil {
		return Sandbox{}, fmt.Errorf("network endpoint of %s in %s: %w", id, a.Network.Name, errdefs.ErrAlreadyExists)
	}
	s = before
	s.Endpoints = slices.Clone(before.Endpoints)
	w, err := m.place(&s, a, nil, present)
	if err != nil {
		return Sandbox{}, err
	}
	s.Endpoints = append(s.Endpoints, w.ep)
	if err := errors.Join(m.addDNS(&s), m.save(s, present)); err != nil {
		return Sandbox{}, err
	}
	if err = m.build(s, []wire{w}, entering{}); err == nil {
		err = m.publish(s, present, len(s.Ports) > 0 || w.made)
	}
	if err != nil {
		return Sandbox{}, errors.Join(err, m.unplug(before, []wire{w}), m.save(before, present), m.publish(before, present, len(s.Ports) > 0))
	}
	return s, nil
}

// Disconnect takes a container that is attached out of a network.
func (m *Manager) Disconnect(ctx context.Context, id, network string) (Sandbox, error) {
	return grounded(m, func() (Sandbox, error) { return m.disconnect(ctx, id, network) })
}

func (m *Manager) disconnect(ctx context.Context, id, network string) (s Sandbox, err error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sweep()
	if err != nil {
		return Sandbox{}, err
	}
	s, ok := present[id]
	if !ok || s.In(network) == nil {
		return Sandbox{}, fmt.Errorf("network endpoint of %s: %w", id, errdefs.ErrNotFound)
	}
	gone := *s.In(network)
	s.Endpoints = slices.DeleteFunc(slices.Clone(s.Endpoints), func(ep Endpoint) bool { return ep.Network == network })
	// The interface goes before the record: else a crash between would leave it for ever.
	if err := m.unplug(s, []wire{{ep: gone}}); err != nil {
		return Sandbox{}, err
	}
	if err := m.save(s, present); err != nil {
		return Sandbox{}, err
	}
	changed := s
	changed.Endpoints = append(slices.Clone(s.Endpoints), gone)
	if err := m.applyRules(present, len(s.Ports) > 0); err != nil {
		return Sandbox{}, err
	}
	return s, m.writeNames(changed, present)
}

// Rename gives a container that is attached other names in its networks.
func (m *Manager) Rename(ctx context.Context, id string, names func(Endpoint) []string) error {
	return m.alone(func() error { return m.rename(ctx, id, names) })
}

func (m *Manager) rename(ctx context.Context, id string, names func(Endpoint) []string) (err error) {
	if _, err := os.Lstat(m.record(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	present, err := m.sandboxes()
	if err != nil {
		return err
	}
	s, ok := present[id]
	if !ok {
		return nil
	}
	for i := range s.Endpoints {
		s.Endpoints[i].Names = names(s.Endpoints[i])
	}
	return errors.Join(m.save(s, present), m.writeNames(s, present))
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// vethName returns a name for the host's end of a pair, within the kernel's limit of 15
// bytes. It is never the same again: the kernel takes its time to remove the pair of a
// container that was just stopped, and it may be starting already.
func vethName() string {
	var b [5]byte
	rand.Read(b[:])
	return "veth" + hex.EncodeToString(b[:])
}

// validInterface says whether the kernel takes name for an interface (dev_valid_name).
func validInterface(name string) bool {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c == '/' || c == ':' || c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
