package bundle

import "github.com/opencontainers/runtime-spec/specs-go"

// restrictDevices lets a container use the devices that its rules allow and those that every
// container has, as runc does: a bundle without rules has no others either. Without root's rights
// there are no rules but the bundle's, for want of the right to set them.
func restrictDevices(l *specs.Linux, rootless bool) {
	if rootless && (l.Resources == nil || len(l.Resources.Devices) == 0) {
		return
	}
	r := specs.LinuxResources{}
	if l.Resources != nil {
		r = *l.Resources
	}
	r.Devices = allowDefaults(r.Devices)
	l.Resources = &r
}

// allowDefaults adds to rules about devices that nothing else is allowed, and what every
// container has: the default devices of runtime-spec, terminals, TUN, and making nodes, whose
// use is another matter. Callers leave that to the runtime, as runc does it too.
func allowDefaults(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	rules = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, rules...)
	for _, kind := range []string{"c", "b"} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: "m"})
	}
	const all = -1
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 2}, {136, all}, // tty, ptmx, pts
		{10, 200}, // net/tun, which does nothing without CAP_NET_ADMIN
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	return rules
}
