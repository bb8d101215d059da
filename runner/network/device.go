package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// devices answers questions about the interfaces of the network it was opened in, netdevice(7). To ask by
// netlink costs twenty times as much: the kernel tells all of an interface.
type devices int // a socket

func openDevices() (devices, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return devices(fd), nil
}

func (d devices) close() { unix.Close(int(d)) }

// link is the interface called name, of which nothing but the index is known.
func (d devices) link(name string) (netlink.Link, error) {
	r, err := d.ask(unix.SIOCGIFINDEX, name)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, int(r.Uint32())
	return &netlink.Device{LinkAttrs: attrs}, nil
}

func (d devices) mtu(name string) (int, error) {
	r, err := d.ask(unix.SIOCGIFMTU, name)
	if err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// running says whether the interface can be used: its state is up, or not known.
func (d devices) running(name string) (bool, error) {
	r, err := d.ask(unix.SIOCGIFFLAGS, name)
	if err != nil {
		return false, err
	}
	return r.Uint16()&unix.IFF_RUNNING != 0, nil
}

func (d devices) ask(what uint, name string) (*unix.Ifreq, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(int(d), what, r)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return r, nil
}

// exists says whether the network this thread is in has an interface called name.
func exists(name string) (bool, error) {
	d, err := openDevices()
	if err != nil {
		return false, err
	}
	defer d.close()
	_, err = d.link(name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// loopback is lo of any network (LOOPBACK_IFINDEX).
func loopback() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "lo", 1
	return &netlink.Device{LinkAttrs: attrs}
}
