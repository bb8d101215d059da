package statefile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Scan calls fn with the name of each entry of the directory dir, in no order, and with what lstat(2) says of
// the entry, or of the file below it if beneath is "/FILE". Entries that have no such file are left out. It asks
// relative to dir: of tens of thousands of entries the way to dir would be most of the work.
func Scan(dir, beneath string, fn func(name string, st *unix.Stat_t) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(int(d.Fd()), name+beneath, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // removed meanwhile, or it has none
		}
		if err != nil {
			return &os.PathError{Op: "lstat", Path: dir + "/" + name + beneath, Err: err}
		}
		if err := fn(name, &st); err != nil {
			return err
		}
	}
	return nil
}
