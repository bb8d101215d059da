package userns

import (
	"fmt"
	"os"
	"strings"
)

// Inside says that this process is not in the host's own user namespace.
func Inside() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// Owner is the user outside who is root in this process's user namespace.
func Owner() (uid int) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err == nil {
		fmt.Sscan(string(b), new(int), &uid)
	}
	return uid
}
