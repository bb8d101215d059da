package runner

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner/cgroup"
)

// WarmUp begins, beside whatever the caller does next, what every start needs: the sealed
// keeper, and the kernel's readiness to move a process between control groups. It may be
// called any number of times; Start waits for it.
func (e *Engine) WarmUp() {
	e.warmOnce.Do(func() {
		e.warming.Go(func() { e.Keeper() }) // Start asks again, and sees the error
		e.warming.Go(warmCgroups)
	})
}

// warmCgroups takes the lock of cgroup_threadgroup_rwsem once. Its first writer waits for an
// RCU grace period, up to 20 ms, and those that follow soon do not (kernel/rcu/sync.c).
// Joining our own group is a writer that changes nothing. With cgroup2 the container is
// born in its group, which takes no such lock.
func warmCgroups() {
	host, err := cgroup.Detect()
	if err != nil || host.Mode() != cgroup.V1 {
		return
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for _, h := range host.Hierarchies() {
		path, ok := ownGroup(own, h.Controllers)
		if !ok {
			continue
		}
		procs := filepath.Join(h.Mountpoint, path, "cgroup.procs")
		list, err := os.ReadFile(procs)
		// What is mounted may not be what /proc speaks of. Never move to another group.
		if err == nil && bytes.Contains(append([]byte("\n"), list...), []byte("\n"+strconv.Itoa(os.Getpid())+"\n")) {
			os.WriteFile(procs, []byte("0"), 0)
			return
		}
	}
}

// ownGroup finds the group of a process in the hierarchy of some controllers; cgroups(7),
// /proc/pid/cgroup.
func ownGroup(proc []byte, controllers []string) (string, bool) {
	for line := range strings.Lines(string(proc)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && fields[1] == strings.Join(controllers, ",") {
			return fields[2], true
		}
	}
	return "", false
}
