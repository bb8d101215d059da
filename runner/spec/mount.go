package spec

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultShm is docker's size of /dev/shm in bytes.
const defaultShm = 64 << 20

// defaultMounts are docker's; moby oci/defaults.go.
func (m *maker) defaultMounts() []specs.Mount {
	shm := m.o.ShmSize
	if shm <= 0 {
		shm = defaultShm
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	if m.o.CgroupNS != "host" {
		list = append(list, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	if m.o.IPCNS == "host" {
		for _, dir := range []string{"/dev/mqueue", "/dev/shm"} {
			if _, err := os.Stat(dir); err == nil { // some hosts have no /dev/mqueue
				list = append(list, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "rprivate"}})
			}
		}
		return list
	}
	list = append(list, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	if m.o.Shm != "" {
		return append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: m.o.Shm, Options: []string{"bind", "rprivate"}})
	}
	return append(list,
		specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)}})
}

// mounts puts the user's mounts behind the default ones, shallow ones first. A default
// mount gives way to the user's on the same place or, for /dev, above it.
func (m *maker) mounts() error {
	var own []specs.Mount
	taken := map[string]bool{}
	for _, w := range m.o.Mounts {
		made, err := m.mount(w)
		if err != nil {
			return err
		}
		if taken[made.Destination] {
			return invalid("duplicate mount point: %s", made.Destination)
		}
		taken[made.Destination] = true
		own = append(own, made)
	}
	if m.o.Init != "" && !taken[initPath] {
		own = append(own, specs.Mount{Destination: initPath, Type: "bind", Source: m.o.Init, Options: []string{"bind", "ro", "rprivate"}})
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for _, d := range m.defaultMounts() {
		if taken[d.Destination] || (taken["/dev"] && strings.HasPrefix(d.Destination, "/dev/")) {
			continue
		}
		if d.Type == "sysfs" && m.o.Privileged || d.Type == "cgroup" && m.o.WritableCgroups {
			d.Options = slices.DeleteFunc(d.Options, func(o string) bool { return o == "ro" })
		}
		m.spec.Mounts = append(m.spec.Mounts, d)
	}
	m.spec.Mounts = append(m.spec.Mounts, own...)
	return nil
}

func (m *maker) mount(w Mount) (specs.Mount, error) {
	s := specs.Mount{Destination: path.Clean(w.Target), Type: w.Type, Source: w.Source}
	if !path.IsAbs(w.Target) || s.Destination == "/" || strings.IndexByte(w.Target, 0) >= 0 {
		return s, invalid("mount target %q is not an absolute path below the root", w.Target)
	}
	switch w.Type {
	case "tmpfs":
		s.Source = "tmpfs"
		s.Options = append([]string{"noexec", "nosuid", "nodev"}, w.Options...)
	case "overlay": // for reading, with its directories among the options
		s.Source, s.Options = "overlay", w.Options
		return s, nil
	case "", "bind":
		if !path.IsAbs(w.Source) || strings.IndexByte(w.Source, 0) >= 0 {
			return s, invalid("mount source %q is not an absolute path", w.Source)
		}
		s.Type = "bind"
		s.Options = bindOptions(w)
		return s, nil
	default:
		return s, invalid("mount type %q", w.Type)
	}
	if w.ReadOnly {
		s.Options = append(s.Options, "ro")
	}
	return s, nil
}

// bindOptions makes what is mounted below read-only too, as docker does since version 25,
// unless it is to be shared with the host.
func bindOptions(w Mount) []string {
	options := []string{"rbind"}
	if w.NoRecursive {
		options[0] = "bind"
	}
	if w.Propagation == "" {
		w.Propagation = "rprivate"
	}
	options = append(options, w.Propagation)
	options = append(options, w.Options...)
	if w.ReadOnly {
		options = append(options, "ro")
		if w.ReadOnlyForceRecursive || !w.NoRecursive && !w.ReadOnlyNonRecursive && w.Propagation == "rprivate" {
			options = append(options, "rro")
		}
	}
	return options
}
