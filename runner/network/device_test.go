package network

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDevices: the kernel's short answers are those of its long ones.
func TestDevices(t *testing.T) {
	d, err := openDevices()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range all {
		link, err := d.link(want.Name)
		if errors.Is(err, unix.ENODEV) { // others come and go
			continue
		}
		if err != nil || link.Attrs().Index != want.Index || link.Attrs().Name != want.Name {
			t.Errorf("%s: %+v, %v; want index %d", want.Name, link, err, want.Index)
		}
		if mtu, err := d.mtu(want.Name); err != nil || mtu != want.MTU {
			t.Errorf("%s: an MTU of %d, %v; want %d", want.Name, mtu, err, want.MTU)
		}
		if running, err := d.running(want.Name); err != nil || running != (want.Flags&net.FlagRunning != 0) {
			t.Errorf("%s runs: %v, %v; flags %v", want.Name, running, err, want.Flags)
		}
		if want.Flags&net.FlagLoopback != 0 && want.Index != loopback().Attrs().Index {
			t.Errorf("%s has index %d", want.Name, want.Index)
		}
	}
	if _, err := d.link("none-such"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a missing interface: %v", err)
	}
	for name, want := range map[string]bool{"lo": true, "none-such": false} {
		if there, err := exists(name); err != nil || there != want {
			t.Errorf("%s exists: %v, %v", name, there, err)
		}
	}
}
