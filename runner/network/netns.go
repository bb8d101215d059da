package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connect makes the namespace of ep and a veth pair between it and the bridge.
//
// It happens on a locked thread, which is given back only once it is in the host's
// namespace again: else it dies with its goroutine, and no other can find itself there.
func (m *Manager) connect(ep Endpoint, br bridge) error {
	result := make(chan error, 1)
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	go func() {
		runtime.LockOSThread()
		err := connectHere(ep, br, int(host.Fd()))
		if back := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("returning to the host's network: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func connectHere(ep Endpoint, br bridge, hostNS int) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare of the network: %w", err)
	}
	if err := holdNetNS(ep.NetNS); err != nil {
		return err
	}
	inside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	host, err := hostHandle(hostNS)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := makeVeth(host, ep, br); err != nil {
		return err
	}
	lo, err := inside.LinkByName("lo")
	if err == nil {
		err = inside.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	if err := configure(inside, ep); err != nil {
		return err
	}
	awaitCarrier(carrier{inside, "eth0"}, carrier{host, ep.Veth}, carrier{host, br.Name})
	return nil
}

// carrier names an interface and the namespace it is in.
type carrier struct {
	handle *netlink.Handle
	name   string
}

// awaitCarrier waits, 100 ms at the most, until the interfaces are up. The kernel tells
// the queue and the bridge of a new link from a work queue of its own; a first packet sent
// before that is lost, and it is asked for again only a second later.
func awaitCarrier(links ...carrier) {
	deadline := time.Now().Add(100 * time.Millisecond)
	for _, l := range links {
		for wait := 20 * time.Microsecond; time.Now().Before(deadline); wait *= 2 {
			link, err := l.handle.LinkByName(l.name)
			if err != nil || link.Attrs().OperState == netlink.OperUp {
				break
			}
			time.Sleep(wait)
		}
	}
}

// holdNetNS bind-mounts the namespace of this thread at path.
func holdNetNS(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the network namespace at %s: %w", path, err)
	}
	return nil
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

// makeVeth makes the pair from the host's side, with eth0 born in the namespace of this thread.
func makeVeth(host *netlink.Handle, ep Endpoint, br bridge) error {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	master, err := host.LinkByName(br.Name)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(ep.MAC)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = ep.Veth, br.MTU, master.Attrs().Index, net.FlagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(here.Fd())}
	err = host.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// The pair of the container's last run: the kernel has not got round to it.
		if old, e := host.LinkByName(attrs.Name); e == nil {
			host.LinkDel(old)
		}
		err = host.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("adding the veth pair %s: %w", attrs.Name, err)
	}
	// A container that asks for its own published port gets its packets back through
	// the port they came from, which a bridge refuses unless told otherwise.
	if err := host.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("hairpin of %s: %w", attrs.Name, err)
	}
	return nil
}

// hostHandle opens a netlink socket in the host's namespace from a thread inside another.
func hostHandle(hostNS int) (h *netlink.Handle, err error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	if err := unix.Setns(hostNS, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering the host's network: %w", err)
	}
	h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	return h, errors.Join(err, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))
}

// vethName returns a name for the host's end of a pair, within the kernel's limit of 15
// bytes. It is never the same again: the kernel takes its time to remove the pair of a
// container that was just stopped, and it may be starting already.
func vethName() string {
	var b [5]byte
	rand.Read(b[:])
	return "veth" + hex.EncodeToString(b[:])
}

// configure gives eth0 its address and the way out.
func configure(inside *netlink.Handle, ep Endpoint) error {
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := disableIPv6("eth0"); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(ep.Address.String())
	if err == nil {
		err = inside.AddrAdd(eth0, addr)
	}
	if err == nil {
		err = inside.LinkSetUp(eth0)
	}
	if err == nil {
		err = inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: ep.Gateway.AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("configuring eth0 with %s: %w", ep.Address, err)
	}
	return nil
}
