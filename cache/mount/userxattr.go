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

// View opens the union of layers, top first, for reading, with the attributes by which this process marks
// what they hide.
func View(layers []string) (*os.File, error) {
	return Overlay{Lowers: layers, UserXattr: NeedsUserXattr()}.Open()
}
