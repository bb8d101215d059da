package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/oci"
)

// copyUp makes the tmpfs of each mount with the option tmpcopyup and fills it with what the
// root has at its place. The caller closes the files, which are mounts without a place, in
// the order of their slots; also with an error.
func (c *Container) copyUp(conf *specs.Spec, o *oci.Options) (filled []*os.File, err error) {
	for _, m := range conf.Mounts {
		if m.Type != "tmpfs" || !slices.Contains(m.Options, "tmpcopyup") {
			continue
		}
		f, err := c.filledTmpfs(m, conf.Linux.MountLabel)
		if err != nil {
			return filled, fmt.Errorf("filling the mount on %s: %w", m.Destination, err)
		}
		if o.Detached == nil {
			o.Detached = map[string]oci.Detached{}
		}
		o.Detached[path.Clean("/"+m.Destination)] = oci.Detached{Slot: 3 + o.Preserve + len(filled)}
		filled = append(filled, f)
	}
	return filled, nil
}

func (c *Container) filledTmpfs(m specs.Mount, label string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", cmp.Or(m.Source, m.Type)); err != nil {
		return nil, fmt.Errorf("source %s: %w", m.Source, err)
	}
	mode := false
	for _, opt := range m.Options {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol":
			mode = mode || key == "mode"
			if err := unix.FsconfigSetString(fs, key, value); err != nil {
				return nil, fmt.Errorf("option %s: %w", opt, err)
			}
		}
	}
	if label != "" {
		if err := unix.FsconfigSetString(fs, "context", label); err != nil {
			return nil, fmt.Errorf("label %s: %w", label, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("making the tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	f := os.NewFile(uintptr(fd), "tmpfs")
	if err := fill(f, c.Rootfs, m.Destination, mode); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fill copies what root has at dir to the directory f. With keepMode the directory itself
// keeps its mode.
func fill(f *os.File, root, dir string, keepMode bool) error {
	in, err := rootfs.Open(root)
	if err != nil {
		return err
	}
	defer in.Close()
	from, err := in.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	if err := rootfs.CopyTree(rootfs.FromFile(from), fmt.Sprintf("/proc/self/fd/%d/.", f.Fd()), rootfs.CopyOptions{}); err != nil || !keepMode {
		return err
	}
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), before.Mode())
}
