package spec

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mappedGroups is how many groups from 0 on there are in this process's user namespace; in
// the host's all that a number can name.
func mappedGroups() uint64 { return mapped("/proc/self/gid_map") }

// mapped reads how many IDs from 0 on a map has; user_namespaces(7).
func mapped(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 1 << 32
	}
	next := uint64(0)
	for line := range strings.Lines(string(b)) { // inside, outside, count; sorted by the first
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != strconv.FormatUint(next, 10) {
			break
		}
		n, _ := strconv.ParseUint(f[2], 10, 64)
		next += n
	}
	return next
}

// fitUserNamespace takes out what names groups that this user namespace does not have: the
// kernel would refuse it.
func (m *maker) fitUserNamespace() error {
	groups := mappedGroups()
	if groups >= 1<<32-1 {
		return nil
	}
	u := m.spec.Process.User
	if users := mapped("/proc/self/uid_map"); uint64(u.UID) >= users || uint64(u.GID) >= groups {
		return invalid("user %d:%d: containers of this user have the users 0 to %d and groups 0 to %d, see docs/rootless.md", u.UID, u.GID, users-1, groups-1)
	}
	const ping = "net.ipv4.ping_group_range"
	if _, given := m.o.Sysctls[ping]; !given && m.spec.Linux.Sysctl[ping] != "" {
		m.spec.Linux.Sysctl[ping] = "0 " + strconv.FormatUint(groups-1, 10)
	}
	m.bindSys()
	if groups > 5 { // the group of terminals
		return nil
	}
	for i, mount := range m.spec.Mounts {
		if mount.Type == "devpts" {
			m.spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(mount.Options), func(o string) bool { return o == "gid=5" })
		}
	}
	m.spec.Process.User.AdditionalGids = nil
	return nil
}

// bindSys shows a container in the host's network the host's /sys: the kernel mounts
// another only for who may change the network. Everything in it is read-only.
func (m *maker) bindSys() {
	if m.o.NetNS != "host" {
		return
	}
	m.spec.Mounts = slices.DeleteFunc(m.spec.Mounts, func(s specs.Mount) bool { return strings.HasPrefix(s.Destination, "/sys/") })
	for i, s := range m.spec.Mounts {
		if s.Destination == "/sys" {
			m.spec.Mounts[i] = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro"}}
		}
	}
}
