package runner

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/oci"
)

// findSubpaths tells the program which directories and files of volumes and images are
// mounted instead of the whole. They are looked up here to tell the user what is wrong, and
// again, by descriptors, when the container starts: its volume may be somebody else's too.
func findSubpaths(c *Container, o *oci.Options) error {
	o.Subpaths, o.SubpathFiles = map[string]string{}, map[string]bool{}
	for _, p := range c.Mounts {
		if p.Subpath == "" || p.Type != "volume" && p.Type != "image" {
			continue
		}
		f, err := p.openSubpath()
		if err != nil {
			return err
		}
		info, err := f.Stat()
		f.Close()
		if err != nil {
			return err
		}
		o.Subpaths[p.Destination] = p.Subpath
		if p.Type == "image" && !info.IsDir() {
			o.SubpathFiles[p.Destination] = true
		}
	}
	return nil
}

// openSubpath opens the path that is mounted, with O_PATH. One that is not there, or leads
// out of the volume or image, is an error in docker's words.
func (p *MountPoint) openSubpath() (*os.File, error) {
	base, name := p.Source, p.Subpath
	open := func() (*os.File, error) { return os.OpenFile(base, unix.O_PATH|unix.O_DIRECTORY, 0) }
	if p.Type == "image" { // base is a name
		open = func() (*os.File, error) { return mount.View(p.Layers) }
	}
	dir, err := open()
	if err != nil {
		return nil, fmt.Errorf("opening %s %s: %w", p.Type, base, err)
	}
	defer dir.Close()
	const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneath})
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), name), nil
	case unix.EXDEV:
		return nil, worded(errdefs.ErrInvalidArgument, "path concatenation escapes the base directory, base: %s, subpath: %s", base, name)
	}
	return nil, fmt.Errorf("cannot access path %s/%s: %w", base, name, err)
}

// fillEmpty copies what the image has at the place of a volume to the directory that is
// mounted there, if that is empty.
func (e *Engine) fillEmpty(ctx context.Context, store *cache.Store, c *Container, w MountRequest, v Volume) error {
	dir := v.Mountpoint
	if w.Subpath != "" {
		p := MountPoint{Type: "volume", Source: dir, MountDetails: MountDetails{Subpath: w.Subpath}}
		f, err := p.openSubpath()
		if err != nil {
			return nil // the start tells
		}
		defer f.Close()
		dir = fmt.Sprintf("/proc/self/fd/%d/.", f.Fd())
		if info, err := f.Stat(); err != nil || !info.IsDir() {
			return err
		}
	}
	if !isEmpty(dir) {
		return nil
	}
	return e.fillVolume(ctx, store, c, w.Target, v, w.Subpath, dir)
}
