// Package mount makes overlay mounts of layer directories.
package mount

import (
	"errors"
	"os"
)

var errTODO = errors.New("not written yet")

// An Overlay describes the union of some directories.
type Overlay struct {
	Lowers      []string // read only, top first, at least one
	Upper, Work string   // both or none; none makes the mount read-only
	Volatile    bool     // skip syncs of the upper; a crash may damage it
	UserXattr   bool     // user.overlay.* instead of trusted.overlay.*, for unprivileged mounts
}

// Mount mounts the overlay at target.
func (o Overlay) Mount(target string) error { return errTODO }

// Open makes the mount without a place, as an O_PATH descriptor of its root. It can be used with
// openat, move_mount or open_tree, and goes away with its last user. It is read-only without an upper.
func (o Overlay) Open() (*os.File, error) { return nil, errTODO }

// Unmount detaches what is mounted at target. Nothing mounted there is not an error.
func Unmount(target string) error { return errTODO }
