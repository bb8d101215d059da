package userns

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Inside says that this process is not in the host's own user namespace.
func Inside() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// ProcCovered says that parts of /proc are covered or read-only, as in a container that is not
// privileged: no network can be set up, and a user namespace may not mount another procfs
// (mount_namespaces(7), locked mounts).
func ProcCovered() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/proc/sys", &fs) == nil && fs.Flags&unix.ST_RDONLY != 0
}

// Owner is the user outside who is root in this process's user namespace.
func Owner() (uid int) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err == nil {
		fmt.Sscan(string(b), new(int), &uid)
	}
	return uid
}

// Own is the user ("uid") or group ("gid") outside who is root in this process's user namespace, and
// how many others it has, which are 1 and more here.
func Own(kind string) (id, others uint32, err error) {
	b, err := os.ReadFile("/proc/self/" + kind + "_map")
	if err != nil {
		return 0, 0, err
	}
	return parseOwn(string(b))
}

// parseOwn reads a map as Mapping makes it: 0, and the others in a row after it.
func parseOwn(text string) (id, others uint32, err error) {
	next := uint64(0)
	for line := range strings.Lines(text) {
		var inside, outside, size uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return 0, 0, fmt.Errorf("ID map %q: %w", line, err)
		}
		if inside == 0 {
			id = uint32(outside)
		}
		if inside != next { // what comes after a gap is not offered
			break
		}
		next += size
	}
	if next == 0 {
		return 0, 0, fmt.Errorf("ID map %q without root: %w", text, errdefs.ErrFailedPrecondition)
	}
	return id, uint32(min(next-1, 1<<32-2)), nil
}
