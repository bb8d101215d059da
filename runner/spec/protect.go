package spec

import (
	"bytes"
	"maps"
	"os"

	"github.com/teu-dev/teu/runner/seccomp"
)

// sysctls adds docker's two for a network namespace: binding low ports and ping need no
// privilege in a network of one's own.
func (m *maker) sysctls() error {
	m.spec.Linux.Sysctl = map[string]string{}
	if m.o.NetNS != "host" && !(m.o.SharedNet && len(m.o.UIDs) > 0) { // else they are not ours to set
		m.spec.Linux.Sysctl["net.ipv4.ip_unprivileged_port_start"] = "0"
		m.spec.Linux.Sysctl["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(m.spec.Linux.Sysctl, m.o.Sysctls)
	return nil
}

// protection masks what the kernel shows too much of and filters system calls; moby
// oci/defaults.go.
func (m *maker) protection() error {
	l := m.spec.Linux
	if p := m.spec.Process; p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined" && !AppArmorEnabled() {
		m.warn("AppArmor is not enabled on this host: the profile %s has no effect", p.ApparmorProfile)
		p.ApparmorProfile = ""
	}
	l.MaskedPaths, l.ReadonlyPaths = m.o.MaskedPaths, m.o.ReadonlyPaths
	if m.o.Privileged || m.o.OpenPaths {
		return m.seccomp()
	}
	if l.MaskedPaths == nil {
		l.MaskedPaths = []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
			"/sys/devices/virtual/powercap", "/sys/firmware",
		}
	}
	if l.ReadonlyPaths == nil {
		l.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	return m.seccomp()
}

func (m *maker) seccomp() (err error) {
	switch {
	case m.o.Seccomp == "unconfined" || (m.o.Privileged && m.o.Seccomp == ""):
	case m.o.Seccomp == "":
		m.spec.Linux.Seccomp, err = seccomp.Default(m.spec)
	default:
		m.spec.Linux.Seccomp, err = seccomp.Load([]byte(m.o.Seccomp), m.spec)
	}
	return err
}

// AppArmorEnabled says that this host enforces AppArmor profiles.
func AppArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}
