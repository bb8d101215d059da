package spec

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/userns"
)

// mappedGroups is how many groups from 0 on there are in this process's user namespace; in
// the host's all that a number can name.
func mappedGroups() uint64 { return firstIDs(ownMap("/proc/self/gid_map")) }

// ownMap reads a map of this process's user namespace; user_namespaces(7).
func ownMap(file string) (list []specs.LinuxIDMapping) {
	b, err := os.ReadFile(file)
	if err != nil {
		return []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
	}
	for line := range strings.Lines(string(b)) { // inside, outside, count
		var r [3]uint32
		f := strings.Fields(line)
		if len(f) != len(r) {
			break
		}
		for i := range r {
			n, _ := strconv.ParseUint(f[i], 10, 32)
			r[i] = uint32(n)
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: r[0], HostID: r[1], Size: r[2]})
	}
	return list
}

// firstIDs is how many IDs from 0 on a map has.
func firstIDs(list []specs.LinuxIDMapping) (next uint64) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b specs.LinuxIDMapping) int { return int(int64(a.ContainerID) - int64(b.ContainerID)) })
	for _, r := range list {
		if uint64(r.ContainerID) != next {
			break
		}
		next += uint64(r.Size)
	}
	return next
}

func hasID(list []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(list, func(r specs.LinuxIDMapping) bool { return id >= r.ContainerID && id-r.ContainerID < r.Size })
}

// fitUserNamespace takes out what names groups that the container's user namespace, its own
// or ours, does not have, and what only the host's root may mount: the kernel would refuse it.
func (m *maker) fitUserNamespace() error {
	users, groups, own := m.o.UIDs, m.o.GIDs, len(m.o.UIDs) > 0
	if !own {
		users, groups = ownMap("/proc/self/uid_map"), ownMap("/proc/self/gid_map")
	}
	count := firstIDs(groups)
	if !own && count >= 1<<32-1 {
		return nil
	}
	u := &m.spec.Process.User
	if !hasID(users, u.UID) || !hasID(groups, u.GID) {
		return invalid("user %d:%d: %s", u.UID, u.GID, m.whichIDs(users, groups))
	}
	const ping = "net.ipv4.ping_group_range"
	if _, given := m.o.Sysctls[ping]; !given && m.spec.Linux.Sysctl[ping] != "" {
		m.spec.Linux.Sysctl[ping] = "0 " + strconv.FormatUint(min(count-1, 1<<31-1), 10)
	}
	covered := userns.ProcCovered()
	if covered { // what there is must do, and no sysctl of the container's namespaces can be set
		maps.DeleteFunc(m.spec.Linux.Sysctl, func(name, _ string) bool { _, given := m.o.Sysctls[name]; return !given })
	}
	if m.o.NetNS == "host" && !own || covered {
		m.bindSys()
	}
	if own && m.o.PIDNS == "host" || covered {
		m.bindProc()
	}
	if !hasID(groups, 5) { // the group of terminals
		for i, mount := range m.spec.Mounts {
			if mount.Type == "devpts" {
				m.spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(mount.Options), func(o string) bool { return o == "gid=5" })
			}
		}
	}
	if !own && count <= 5 { // setgroups is denied
		u.AdditionalGids = nil
	}
	for _, g := range u.AdditionalGids {
		if !hasID(groups, g) {
			return invalid("group %d: %s", g, m.whichIDs(users, groups))
		}
	}
	return nil
}

// whichIDs says which IDs there are.
func (m *maker) whichIDs(users, groups []specs.LinuxIDMapping) string {
	text := fmt.Sprintf("the users 0 to %d and groups 0 to %d", firstIDs(users)-1, firstIDs(groups)-1)
	if len(m.o.UIDs) > 0 {
		return "the container's user namespace has " + text + ", see --userns auto:size="
	}
	return "containers of this user have " + text + ", see docs/rootless.md"
}

// bindSys shows a container in the host's network the host's /sys: the kernel mounts
// another only for who may change the network. Everything in it is read-only.
func (m *maker) bindSys() {
	m.spec.Mounts = slices.DeleteFunc(m.spec.Mounts, func(s specs.Mount) bool { return strings.HasPrefix(s.Destination, "/sys/") })
	for i, s := range m.spec.Mounts {
		if s.Destination == "/sys" {
			m.spec.Mounts[i] = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro"}}
		}
	}
}

// bindProc shows a container with the host's processes the host's /proc, which only the
// host's root may mount anew. Where that is covered, any container gets it.
func (m *maker) bindProc() {
	for i, s := range m.spec.Mounts {
		if s.Destination == "/proc" && s.Type == "proc" {
			m.spec.Mounts[i] = specs.Mount{Destination: "/proc", Type: "none", Source: "/proc", Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
		}
	}
}
