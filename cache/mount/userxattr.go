package mount

import (
	"os"
	"strings"
)

// NeedsUserXattr says whether this process may write only the attributes user.overlay.*, because
// it is not root, or root of a user namespace only. Its overlays are to be mounted with UserXattr.
func NeedsUserXattr() bool {
	if os.Geteuid() != 0 {
		return true
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
}
