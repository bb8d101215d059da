package spec

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultCapabilities is docker's set; moby oci/caps/defaults.go.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities decides the sets. None is ever inheritable (CVE-2022-24769).
func (m *maker) capabilities() error {
	list, err := m.capabilityList()
	if err != nil {
		return err
	}
	m.spec.Process.Capabilities = capabilitySets(list, m.spec.Process.User)
	return nil
}

// capabilitySets gives who is not root only the bound, as execve would.
func capabilitySets(list []string, u specs.User) *specs.LinuxCapabilities {
	c := &specs.LinuxCapabilities{Bounding: list}
	if u.UID == 0 {
		c.Effective, c.Permitted = list, list
	}
	return c
}

// capabilityList applies --cap-add and --cap-drop as docker does: with ALL on one side the
// other side is the list of exceptions.
func (m *maker) capabilityList() ([]string, error) {
	have := hostCapabilities()
	if m.o.Privileged {
		return have, nil
	}
	add, err := capabilityNames(m.o.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := capabilityNames(m.o.CapDrop)
	if err != nil {
		return nil, err
	}
	base := defaultCapabilities()
	switch {
	case slices.Contains(add, "ALL"):
		base = have
	case slices.Contains(drop, "ALL"):
		base = nil
	}
	var list []string
	for _, c := range append(base, add...) {
		switch {
		case c == "ALL" || slices.Contains(list, c):
		case slices.Contains(drop, c) && !(slices.Contains(drop, "ALL") && slices.Contains(add, c)):
		case !slices.Contains(have, c):
			m.warn("this host does not have the capability %s: the container runs without it", c)
		default:
			list = append(list, c)
		}
	}
	return list, nil
}

// CheckCapabilities refuses names that no kernel knows.
func CheckCapabilities(names []string) error {
	_, err := capabilityNames(names)
	return err
}

// capabilityNames brings names into the kernel's form.
func capabilityNames(names []string) ([]string, error) {
	known := map[string]bool{"ALL": true}
	for _, c := range capability.ListKnown() {
		known["CAP_"+strings.ToUpper(c.String())] = true
	}
	var list []string
	for _, n := range names {
		n = strings.ToUpper(n)
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if n == "CAP_ALL" {
			n = "ALL"
		}
		if !known[n] {
			return nil, invalid("unknown capability: %q", n)
		}
		list = append(list, n)
	}
	return list, nil
}

// hostCapabilities are those of this process, which are all it can give.
func hostCapabilities() []string {
	var list []string
	for _, c := range capability.ListKnown() {
		if hasCapability(uint(c)) {
			list = append(list, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return list
}

func hasCapability(n uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil || n > 63 {
		return false
	}
	return data[n/32].Permitted&(1<<(n%32)) != 0
}
