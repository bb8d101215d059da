package network

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// crowd is the number of containers from which the kernel's tables of neighbours are made
// larger.
const crowd = 64

// makeRoom lets many containers talk to each other. The tables of neighbours are one for
// all network namespaces of the host (arp(7), gc_thresh3), with 1024 places by default:
// thirty-two containers that all talk to each other fill one, and then packets are lost.
// The numbers are those of docker's overlay networks; a larger one of the host's stays.
// This is best effort: only the host's own namespace has the files.
func makeRoom(sysctls string) {
	for _, family := range []string{"ipv4", "ipv6"} {
		for name, least := range map[string]int{"gc_thresh1": 8192, "gc_thresh2": 49152, "gc_thresh3": 65536} {
			path := filepath.Join(sysctls, "net", family, "neigh/default", name)
			text, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			if now, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && now < least {
				os.WriteFile(path, []byte(strconv.Itoa(least)), 0o644)
			}
		}
	}
}
