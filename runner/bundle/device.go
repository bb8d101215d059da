package bundle

import "github.com/opencontainers/runtime-spec/specs-go"

// allowDefaults adds to rules about devices those for what every container has: the
// default devices of runtime-spec, terminals, and making nodes, whose use is another
// matter. Callers leave that to the runtime, as runc does it too.
func allowDefaults(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if len(rules) == 0 {
		return nil
	}
	rules = rules[:len(rules):len(rules)]
	for _, kind := range []string{"c", "b"} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: "m"})
	}
	const all = -1
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 2}, {136, all}, // tty, ptmx, pts
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	return rules
}
