//go:build !front

package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner/network"
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
	if path := network.Outlet(); path != "" {
		u.Printf("user: containers reach other hosts by %s\n", filepath.Base(path))
	} else {
		u.Println("user: neither pasta nor slirp4netns is installed: containers do not reach other hosts; install the package passt")
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		u.Println("user: /dev/net/tun cannot be opened, which pasta and slirp4netns need: containers do not reach other hosts")
	} else {
		f.Close()
	}
}
