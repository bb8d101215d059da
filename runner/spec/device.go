package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxDevices is how many nodes one directory may bring.
const maxDevices = 4096

// defaultRules lets a container use what runtime-spec 1.3, config-linux.md, "Default
// Devices", gives it and its terminals, and make other nodes without opening them; moby
// oci/defaults.go and runc specconv, AllowedDevices.
func defaultRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule("c", -1, -1, "m"),
		rule("b", -1, -1, "m"),
	}
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null zero full random urandom
		{5, 0}, {5, 1}, {5, 2}, {136, -1}, // tty console ptmx pts/*
	} {
		rules = append(rules, rule("c", d[0], d[1], "rwm"))
	}
	return rules
}

func rule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// devices adds nodes and the rules that let the container use them. A privileged container
// has all of the host's.
func (m *maker) devices() error {
	if m.o.Privileged {
		nodes, err := hostDevices()
		if err != nil {
			return err
		}
		m.spec.Linux.Devices = nodes
		m.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		m.spec.Linux.Resources.Devices = defaultRules()
	}
	for _, d := range m.o.Devices {
		if strings.Trim(d.Access, "rwm") != "" {
			return invalid("device access %q", d.Access)
		}
		if d.Access == "" {
			d.Access = "rwm"
		}
		if d.Target == "" {
			d.Target = d.Source
		}
		if err := m.device(d); err != nil {
			return fmt.Errorf("device %s: %w", d.Source, err)
		}
	}
	m.spec.Linux.Resources.Devices = append(m.spec.Linux.Resources.Devices, m.o.DeviceRules...)
	return nil
}

func (m *maker) device(d Device) error {
	target := path.Clean(d.Target)
	if !strings.HasPrefix(target, "/dev/") {
		return invalid("target %q is not below /dev", d.Target)
	}
	if d.Type != "" {
		m.addDevice(d, specs.LinuxDevice{Path: target, Type: d.Type, Major: d.Major, Minor: d.Minor})
		return nil
	}
	var nodes []specs.LinuxDevice
	info, err := os.Stat(d.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case err != nil:
		return err
	case info.IsDir():
		if nodes, err = devicesBelow(d.Source, target); err != nil {
			return err
		}
	default:
		node, err := deviceNode(d.Source, target)
		if err != nil {
			return err
		}
		nodes = append(nodes, node)
	}
	for _, n := range nodes {
		m.addDevice(d, n)
	}
	return nil
}

func (m *maker) addDevice(d Device, n specs.LinuxDevice) {
	d.own(&n)
	m.spec.Linux.Devices = slices.DeleteFunc(m.spec.Linux.Devices, func(old specs.LinuxDevice) bool { return old.Path == n.Path })
	m.spec.Linux.Devices = append(m.spec.Linux.Devices, n)
	if n.Type != "p" {
		m.spec.Linux.Resources.Devices = append(m.spec.Linux.Resources.Devices, rule(n.Type, n.Major, n.Minor, d.Access))
	}
}

// own changes what is to differ from the host's node.
func (d Device) own(n *specs.LinuxDevice) {
	if d.Mode != nil {
		mode := fs.FileMode(*d.Mode & 0o777)
		n.FileMode = &mode
	}
	if d.UID != nil {
		n.UID = d.UID
	}
	if d.GID != nil {
		n.GID = d.GID
	}
}

// deviceNode describes the node at source, under the name it is to have.
func deviceNode(source, target string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "stat", Path: source, Err: err}
	}
	d := specs.LinuxDevice{Path: target, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, invalid("%s is not a device", source)
	}
	mode, uid, gid := fs.FileMode(st.Mode&0o777), st.Uid, st.Gid
	d.FileMode, d.UID, d.GID = &mode, &uid, &gid
	return d, nil
}

func hostDevices() ([]specs.LinuxDevice, error) { return devicesBelow("/dev", "/dev") }

// devicesBelow describes all nodes below a directory, except those every container has of
// its own.
func devicesBelow(source, target string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // unplugged meanwhile
			return nil
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.udev"}, p):
			return fs.SkipDir
		case d.Type()&fs.ModeDevice == 0 || p == "/dev/console" || p == "/dev/ptmx":
			return nil
		case len(list) >= maxDevices:
			return invalid("more than %d devices in %s", maxDevices, source)
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		node, err := deviceNode(p, path.Join(target, rel))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		list = append(list, node)
		return err
	})
	return list, err
}
