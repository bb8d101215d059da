package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/userns"
)

// scene is a thread inside a container's namespace, with sockets to either side.
type scene struct {
	inside, host   *netlink.Handle
	within, around devices  // of the same sides
	netns          *os.File // the container's
}

// entering says how a namespace is entered.
type entering struct {
	fresh  bool                   // it is made first
	uids   []specs.LinuxIDMapping // of the user namespace it is made in; none: ours
	gids   []specs.LinuxIDMapping
	user   *os.File // or in this user namespace
	oneWay bool     // the thread cannot return and ends, see grounded
}

// enter runs f on a thread inside the namespace at path.
//
// The thread is given back only once it is in the host's namespace again: else it dies
// with its goroutine, and no other can find itself there.
func enter(path string, o entering, f func(*scene) error) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	return apart(func() error {
		runtime.LockOSThread()
		err := enterHere(path, o, int(host.Fd()), f)
		if o.oneWay {
			return err
		}
		if back := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); back != nil {
			return errors.Join(err, fmt.Errorf("returning to the host's network: %w", back))
		}
		runtime.UnlockOSThread()
		return err
	})
}

func enterHere(path string, o entering, hostNS int, f func(*scene) error) error {
	sc := &scene{}
	var err error
	if o.fresh && (o.user != nil || len(o.uids) > 0) {
		hold := func(pid int) error { return holdNetNS(fmt.Sprintf("/proc/%d/ns/net", pid), path) }
		if o.user != nil {
			err = userns.Join(o.user, unix.CLONE_NEWNET, hold)
		} else {
			err = userns.Make(unix.CLONE_NEWNET, o.uids, o.gids, hold)
		}
		if err != nil {
			return err
		}
		o.fresh = false
	}
	if o.fresh {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare of the network: %w", err)
		}
		if err := holdNetNS("/proc/thread-self/ns/net", path); err != nil {
			return err
		}
		sc.netns, err = os.Open("/proc/thread-self/ns/net")
	} else {
		if sc.netns, err = os.Open(path); err == nil {
			err = unix.Setns(int(sc.netns.Fd()), unix.CLONE_NEWNET)
		}
	}
	if err != nil {
		return fmt.Errorf("entering the namespace %s: %w", path, err)
	}
	defer sc.netns.Close()
	if sc.inside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	defer sc.inside.Close()
	if sc.within, err = openDevices(); err != nil {
		return err
	}
	defer sc.within.close()
	if err := unix.Setns(hostNS, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the host's network: %w", err)
	}
	if sc.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	defer sc.host.Close()
	if sc.around, err = openDevices(); err != nil {
		return err
	}
	defer sc.around.close()
	if err := unix.Setns(int(sc.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the namespace %s again: %w", path, err)
	}
	return f(sc)
}

// build makes the interfaces of a plan in the namespace of s, which is made first if how says so,
// and leads the default routes where s says.
func (m *Manager) build(s Sandbox, plan []wire, how entering) error {
	how.oneWay = m.Ground() != ""
	return enter(s.NetNS, how, func(sc *scene) error {
		if how.fresh {
			if err := sc.inside.LinkSetUp(loopback()); err != nil {
				return fmt.Errorf("bringing lo up: %w", err)
			}
		}
		var up []carrier
		for _, w := range plan {
			links, err := sc.plug(w)
			if err != nil {
				return fmt.Errorf("network %s: %w", w.n.Name, err)
			}
			up = append(up, links...)
		}
		if err := sc.leadOut(s, how.fresh); err != nil {
			return err
		}
		if s.DNSPort != 0 {
			if err := redirectDNS(s.DNSPort); err != nil {
				return err
			}
		}
		awaitCarrier(up...)
		return nil
	})
}

// unplug removes interfaces from the namespace of s and leads the default routes where s says.
func (m *Manager) unplug(s Sandbox, stale []wire) error {
	return enter(s.NetNS, entering{oneWay: m.Ground() != ""}, func(sc *scene) error {
		for _, w := range stale {
			link, err := sc.inside.LinkByName(w.ep.Interface)
			var missing netlink.LinkNotFoundError
			if errors.As(err, &missing) {
				continue
			}
			if err == nil {
				err = sc.inside.LinkDel(link)
			}
			if err != nil {
				return fmt.Errorf("removing %s: %w", w.ep.Interface, err)
			}
		}
		return sc.leadOut(s, false)
	})
}

// plug makes one interface and gives it its addresses. It returns the links whose carrier
// is worth waiting for.
func (sc *scene) plug(w wire) (up []carrier, err error) {
	name := w.ep.Interface
	if !validInterface(name) {
		return nil, fmt.Errorf("interface name %q: %w", name, unix.EINVAL)
	}
	if w.n.Driver == "bridge" {
		err = sc.veth(w)
		up = []carrier{{sc.within, name}, {sc.around, w.ep.Veth}, {sc.around, w.br.Name}}
	} else {
		err = sc.child(w)
		up = []carrier{{sc.within, name}}
	}
	if err != nil {
		return nil, err
	}
	if err := sc.configure(w.ep); err != nil {
		return nil, err
	}
	for _, s := range w.sysctls { // last: those of the families are there when they have addresses
		if err := s.set(name); err != nil {
			return nil, err
		}
	}
	return up, nil
}

// veth makes the pair from the host's side, with its other end born inside.
func (sc *scene) veth(w wire) error {
	master, err := sc.around.link(w.br.Name)
	if err != nil {
		return err
	}
	mtu, err := sc.around.mtu(w.br.Name)
	if err != nil {
		return err
	}
	mac, err := parseMAC(w.ep.MAC)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = w.ep.Veth, mtu, master.Attrs().Index, flagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: w.ep.Interface, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(sc.netns.Fd())}
	if err := sc.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding the veth pair %s: %w", attrs.Name, err)
	}
	// A container that asks for its own published port gets its packets back through
	// the port they came from, which a bridge refuses unless told otherwise.
	if err := sc.host.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("hairpin of %s: %w", attrs.Name, err)
	}
	if !w.br.Closed {
		return nil
	}
	// Ports of one bridge that are isolated do not reach each other (enable_icc=false).
	if err := sc.host.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("isolating %s: %w", attrs.Name, err)
	}
	return nil
}

// child makes a macvlan or ipvlan interface inside on its parent outside.
func (sc *scene) child(w wire) error {
	name, _ := parentOf(w.n)
	parent, err := sc.host.LinkByName(name)
	if err != nil {
		return fmt.Errorf("parent interface %s: %w", name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = w.ep.Interface, parent.Attrs().Index, netlink.NsFd(sc.netns.Fd())
	if w.ep.MAC != "" {
		if attrs.HardwareAddr, err = parseMAC(w.ep.MAC); err != nil {
			return err
		}
	}
	link, err := linkOf(w.n, attrs)
	if err != nil {
		return err
	}
	if err := sc.host.LinkAdd(link); err != nil {
		return fmt.Errorf("adding a %s interface on %s: %w", w.n.Driver, name, err)
	}
	return nil
}

// configure gives an interface inside its addresses and brings it up.
func (sc *scene) configure(ep Endpoint) error {
	link, err := sc.within.link(ep.Interface)
	if err != nil {
		return err
	}
	if ep.Address6.IsValid() {
		err = os.WriteFile("/proc/sys/net/ipv6/conf/"+ep.Interface+"/disable_ipv6", []byte("0"), 0)
	} else {
		err = disableIPv6(ep.Interface)
	}
	if err != nil {
		return err
	}
	if ep.Address.IsValid() {
		if err := addAddress(sc.inside.AddrAdd, link, ep.Address); err != nil {
			return err
		}
	}
	if ep.Address6.IsValid() {
		if err := addAddress(sc.inside.AddrAdd, link, ep.Address6); err != nil {
			return err
		}
	}
	for _, a := range ep.LinkLocal {
		if err := addAddress(sc.inside.AddrAdd, link, linkLocalPrefix(a)); err != nil {
			return err
		}
	}
	if err := sc.inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up: %w", ep.Interface, err)
	}
	return nil
}

// leadOut sets the default route of each family to the endpoint it belongs to.
func (sc *scene) leadOut(s Sandbox, fresh bool) error {
	for _, six := range []bool{false, true} {
		ep := defaultRoute(s.Endpoints, six)
		if !fresh {
			if err := sc.removeDefault(six); err != nil {
				return err
			}
		}
		if ep == nil {
			continue
		}
		link, err := sc.within.link(ep.Interface)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: ep.Gateway.AsSlice()}
		switch {
		case six:
			route.Gw = ep.Gateway6.AsSlice()
		case ep.Routed:
			route.Gw, route.Dst, route.Scope = nil, anywhere(), netlink.SCOPE_LINK
		}
		if err := sc.inside.RouteAdd(route); err != nil {
			return fmt.Errorf("default route by %s: %w", ep.Interface, err)
		}
	}
	return nil
}

func (sc *scene) removeDefault(six bool) error {
	family := netlink.FAMILY_V4
	if six {
		family = netlink.FAMILY_V6
	}
	list, err := sc.inside.RouteList(nil, family)
	if err != nil {
		return fmt.Errorf("listing default routes: %w", err)
	}
	for _, r := range list {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if err := sc.inside.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing a default route: %w", err)
		}
	}
	return nil
}

// carrier names an interface and the namespace it is in.
type carrier struct {
	of   devices
	name string
}

// awaitCarrier waits, 100 ms at the most, until the interfaces are up. The kernel tells
// the queue and the bridge of a new link from a work queue of its own; a first packet sent
// before that is lost, and it is asked for again only a second later.
func awaitCarrier(links ...carrier) {
	deadline := time.Now().Add(100 * time.Millisecond)
	for _, l := range links {
		for wait := 20 * time.Microsecond; time.Now().Before(deadline); wait *= 2 {
			if running, err := l.of.running(l.name); err != nil || running {
				break
			}
			time.Sleep(wait)
		}
	}
}

// holdNetNS bind-mounts a namespace at path.
func holdNetNS(ns, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(ns, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the network namespace at %s: %w", path, err)
	}
	return nil
}

// held says whether there is a namespace at path.
func held(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// removeNetNS lets go of the namespace at path. The kernel destroys it, with its end of the
// veth pair, when the last process has left; deleting the pair here would cost 15 ms.
func removeNetNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("umount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
