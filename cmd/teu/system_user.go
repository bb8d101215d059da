//go:build !front && !porter

package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner/userns"
)

// checkUser tells what an ordinary user lacks on this host, and what to do about it.
func checkUser(u *ui.UI) {
	if !userns.Inside() {
		return
	}
	u.Printf("user: %d is root of a user namespace\n", userns.Owner())
	if ids, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.Count(string(ids), "\n") < 2 {
		for _, p := range userns.Lacking() {
			u.Printf("user: %s is not installed: containers have one user only; install the package uidmap\n", p)
		}
		u.Println("user: no subordinate IDs are in use: containers have one user only; " +
			"run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, then `teu system reset` as that user")
	}
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err == nil {
		unix.Close(fd)
	} else {
		u.Printf("user: containers cannot ping other hosts; run `sysctl net.ipv4.ping_group_range='0 2147483647'`\n")
	}
}
