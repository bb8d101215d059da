package bundle

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// moveDevices moves network devices of the host into the container's network namespace,
// with their permanent addresses, and brings them up; runtime-spec 1.3, config-linux.md,
// "Network Devices". The kernel gives physical ones back when the namespace ends.
func (c *Container) moveDevices(conf *specs.Spec) error {
	if len(conf.Linux.NetDevices) == 0 {
		return nil
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("moving network devices: %w", err)
	}
	defer host.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.Init.PID))
	if err != nil {
		return fmt.Errorf("moving network devices: %w", err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("moving network devices: %w", err)
	}
	defer inside.Close()
	for _, name := range slices.Sorted(maps.Keys(conf.Linux.NetDevices)) {
		to := conf.Linux.NetDevices[name].Name
		if to == "" {
			to = name
		}
		if err := moveDevice(host, inside, int(ns.Fd()), name, to); err != nil {
			return fmt.Errorf("network device %s: %w", name, err)
		}
	}
	return nil
}

// moveDevice moves one device. Until the kernel has moved it, nothing changes: one that cannot be
// moved, such as lo, stays up. It goes down by being moved.
func moveDevice(host, inside *netlink.Handle, ns int, name, to string) error {
	if !deviceName(to) {
		return fmt.Errorf("name %q: %w", to, errdefs.ErrInvalidArgument)
	}
	for _, taken := range []string{name, to} { // it arrives by its old name
		if _, err := inside.LinkByName(taken); err == nil {
			return fmt.Errorf("%s is in the container's namespace: %w", taken, errdefs.ErrAlreadyExists)
		}
	}
	link, err := host.LinkByName(name)
	if err != nil {
		return err
	}
	addresses, err := host.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("reading the addresses: %w", err)
	}
	if err := host.LinkSetNsFd(link, ns); err != nil {
		return fmt.Errorf("moving it: %w", err)
	}
	moved, err := inside.LinkByName(name)
	if err != nil {
		return err
	}
	if to != name {
		if err := inside.LinkSetName(moved, to); err != nil {
			return fmt.Errorf("naming it %s: %w", to, err)
		}
	}
	for _, a := range addresses {
		if a.Flags&unix.IFA_F_PERMANENT == 0 || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		keep := netlink.Addr{IPNet: a.IPNet}
		if err := inside.AddrAdd(moved, &keep); err != nil {
			return fmt.Errorf("address %s: %w", a.IPNet, err)
		}
	}
	return inside.LinkSetUp(moved)
}

// deviceName says that the kernel takes a name; net/core/dev.c, dev_valid_name.
func deviceName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) < unix.IFNAMSIZ && !strings.ContainsAny(s, "/: \t\n\v\f\r\u00a0%")
}
