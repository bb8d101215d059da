package spec

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capSysResource allows to raise hard limits; capabilities(7).
const capSysResource = 24

// maxFiles is the hard limit of open files of docker's containers since version 25.
const maxFiles = 1 << 19

// limits sets rlimits, the OOM score and resources. Hard limits above ours need a
// capability that some hosts do not have; then ours is all there is to give.
func (m *maker) limits() error {
	seen := map[string]bool{}
	for _, r := range m.o.Rlimits {
		r.Type = strings.ToUpper(r.Type)
		if !strings.HasPrefix(r.Type, "RLIMIT_") {
			r.Type = "RLIMIT_" + r.Type
		}
		n, ok := RlimitNumber(r.Type)
		if !ok || seen[r.Type] || r.Soft > r.Hard {
			return invalid("limit %s %d:%d", r.Type, r.Soft, r.Hard)
		}
		seen[r.Type] = true
		if own, ok := ownLimit(n); ok && r.Hard > own && !mayRaise() {
			m.warn("limit %s is %d and not %d: this host does not let us raise it", r.Type, own, r.Hard)
			r.Hard, r.Soft = own, min(r.Soft, own)
		}
		m.spec.Process.Rlimits = append(m.spec.Process.Rlimits, r)
	}
	if !seen["RLIMIT_NOFILE"] { // ours is raised by the Go runtime, and no measure
		hard, ok := ownLimit(unix.RLIMIT_NOFILE)
		if !ok || hard > maxFiles {
			hard = maxFiles
		}
		m.spec.Process.Rlimits = append(m.spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: min(1024, hard), Hard: hard})
	}
	m.oomScore()
	m.spec.Linux.Resources = &specs.LinuxResources{}
	if m.o.Resources != nil {
		r := *m.o.Resources
		m.spec.Linux.Resources = &r
	}
	return nil
}

// within lowers list to the hard limits of a process, proc_pid_limits(5). s was made again by somebody whose own
// limits may be higher than those that the container was started with, which its keeper may not be able to raise.
func within(list []specs.POSIXRlimit, limits []byte) []specs.POSIXRlimit {
	lines := strings.Split(string(limits), "\n") // a heading, and the limits by number
	list = slices.Clone(list)
	for i := range list {
		r := &list[i]
		n, ok := RlimitNumber(r.Type)
		if n++; !ok || n >= len(lines) || len(lines[n]) < limitsColumn {
			continue
		}
		if f := strings.Fields(lines[n][limitsColumn:]); len(f) > 1 {
			if hard, err := strconv.ParseUint(f[1], 10, 64); err == nil { // or unlimited
				r.Hard = min(r.Hard, hard)
				r.Soft = min(r.Soft, r.Hard)
			}
		}
	}
	return list
}

// limitsColumn is where the names in /proc/PID/limits end.
const limitsColumn = 26

// mayRaise says that we may set limits above our own. The capability counts only in the
// host's own user namespace.
func mayRaise() bool { return hasCapability(capSysResource) && mappedGroups() >= 1<<32-1 }

func (m *maker) oomScore() {
	adj := m.o.OOMScoreAdj
	if adj == nil {
		return
	}
	v := min(max(*adj, -1000), 1000)
	if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil && !mayRaise() {
		if own, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && v < own {
			m.warn("the OOM score adjustment is %d and not %d: this host does not let us lower it", own, v)
			v = own
		}
	}
	m.spec.Process.OOMScoreAdj = &v
}

// RlimitNumber is the number of a limit of a spec, such as RLIMIT_NOFILE; getrlimit(2).
func RlimitNumber(name string) (int, bool) {
	n := slices.Index([]string{"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS",
		"RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING",
		"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME"}, name)
	return n, n >= 0
}

func ownLimit(n int) (hard uint64, ok bool) {
	var r unix.Rlimit
	if err := unix.Prlimit(0, n, nil, &r); err != nil {
		return 0, false
	}
	return r.Max, true
}
