package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is a fresh ext4 with a journal on a loop device whose file is in memory: the same
// for every tool, whatever this machine's disk is.
type disk struct {
	file, dir string
}

func newDisk() (*disk, error) {
	base, err := os.MkdirTemp("/dev/shm", "teu-bench-")
	if err != nil {
		return nil, err
	}
	d := &disk{file: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt")}
	script := `set -e; truncate -s 16G "$1"; mkfs.ext4 -q -m 0 "$1"; mkdir "$2"; mount -o loop "$1" "$2"
echo none >"/sys/block/$(basename "$(findmnt -no SOURCE "$2")")/queue/scheduler"`
	if out, err := exec.Command("sh", "-c", script, "sh", d.file, d.dir).CombinedOutput(); err != nil {
		os.RemoveAll(base)
		return nil, fmt.Errorf("making a disk: %w: %s", err, out)
	}
	return d, nil
}

// close removes the disk and all on it.
func (d *disk) close() error {
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount %s: %w", d.dir, err)
	}
	return os.RemoveAll(filepath.Dir(d.file))
}
