package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A volume with options of the local driver (type, device, o) is a file system that is
// mounted on its directory while containers use it. It is mounted by the first that
// starts and unmounted after the last; both under the lock of the volumes.

// checkDriver refuses what is not of the local driver.
func (o *VolumeOptions) checkDriver() error {
	if o.Driver != "" && o.Driver != "local" {
		return worded(errdefs.ErrNotFound, "create %s: error looking up volume plugin %s: plugin %q not found", o.Name, o.Driver, o.Driver)
	}
	for key := range o.DriverOpts {
		switch key {
		case "type", "device", "o":
		case "size":
			return worded(errdefs.ErrInvalidArgument, "create %s: quota size requested but no quota support", o.Name)
		default:
			return worded(errdefs.ErrInvalidArgument, "create %s: invalid option: %q", o.Name, key)
		}
	}
	if len(o.DriverOpts) > 0 && o.DriverOpts["device"] == "" {
		return worded(errdefs.ErrInvalidArgument, "create %s: missing required option: %q", o.Name, "device")
	}
	if len(o.DriverOpts) > 0 && o.DriverOpts["type"] == "" {
		return worded(errdefs.ErrInvalidArgument, "create %s: missing required option: %q", o.Name, "type")
	}
	return nil
}

// driven says whether a volume must be mounted to be used.
func (v *Volume) driven() bool { return v.Options["device"] != "" }

// mountVolume mounts a volume that must be and is not. The lock of the volumes is held.
func (v *Volume) mount() error {
	if !v.driven() || mounted(v.Mountpoint) {
		return nil
	}
	kind, device := v.Options["type"], v.Options["device"]
	flags, data, err := mountFlags(v.Options["o"])
	if err == nil && data != "" {
		data, err = resolveServer(kind, data)
	}
	if err == nil && (kind == "none" || flags&unix.MS_BIND != 0) {
		err = bindVolume(device, v.Mountpoint, flags)
	} else if err == nil {
		err = unix.Mount(device, v.Mountpoint, kind, flags, data)
	}
	if err != nil {
		return fmt.Errorf("error while mounting volume '%s': failed to mount local volume: mount %s:%s, flags: 0x%x, data: %s: %w", v.Mountpoint, device, v.Mountpoint, flags, data, err)
	}
	return nil
}

// bindVolume binds a directory; the other flags take a second call (mount(2), "Remounting").
func bindVolume(device, target string, flags uintptr) error {
	if err := unix.Mount(device, target, "", unix.MS_BIND|flags&unix.MS_REC, ""); err != nil {
		return err
	}
	rest := flags &^ (unix.MS_BIND | unix.MS_REC)
	if rest == 0 {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|rest, ""); err != nil {
		return errors.Join(err, unix.Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

// unmount takes a volume's mounts away; whoever still looks at one keeps it for that time, as with dockerd. A
// volume that is not mounted is no error.
func (v *Volume) unmount() error {
	for mounted(v.Mountpoint) {
		if err := unix.Unmount(v.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// mounted says whether something is mounted on a directory (statx(2), STATX_ATTR_MOUNT_ROOT).
func mounted(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// mountFlags splits the options of mount(8) into those the kernel has bits for and the
// file system's.
func mountFlags(options string) (flags uintptr, data string, err error) {
	set := map[string]uintptr{
		"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS,
		"dirsync": unix.MS_DIRSYNC, "mand": unix.MS_MANDLOCK, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
		"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC,
	}
	clear := map[string]uintptr{
		"rw": unix.MS_RDONLY, "suid": unix.MS_NOSUID, "dev": unix.MS_NODEV, "exec": unix.MS_NOEXEC, "async": unix.MS_SYNCHRONOUS,
		"atime": unix.MS_NOATIME, "diratime": unix.MS_NODIRATIME, "defaults": 0,
	}
	var rest []string
	for option := range strings.SplitSeq(options, ",") {
		if bits, ok := set[option]; ok {
			flags |= bits
		} else if bits, ok := clear[option]; ok {
			flags &^= bits
		} else if option == "remount" || option == "move" {
			return 0, "", fmt.Errorf("option %q of a volume: %w", option, errdefs.ErrInvalidArgument)
		} else if option != "" {
			rest = append(rest, option)
		}
	}
	return flags, strings.Join(rest, ","), nil
}

// resolveServer gives the kernel the address of a network file system's server, which
// mount(8) would look up.
func resolveServer(kind, data string) (string, error) {
	if kind != "nfs" && kind != "nfs4" && kind != "cifs" {
		return data, nil
	}
	options := strings.Split(data, ",")
	for i, option := range options {
		host, ok := strings.CutPrefix(option, "addr=")
		if !ok || net.ParseIP(host) != nil {
			continue
		}
		address, err := net.ResolveIPAddr("ip", host)
		if err != nil {
			return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
		}
		options[i] = "addr=" + address.String()
	}
	return strings.Join(options, ","), nil
}

// mountVolumes mounts what a container that starts needs.
func (e *Engine) mountVolumes(ctx context.Context, c *Container) error {
	for _, p := range c.Mounts {
		if p.Type != "volume" {
			continue
		}
		if err := e.finishFilling(ctx, p.Name); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(c.Mounts, func(p MountPoint) bool { return p.Driven }) {
		return nil
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range c.Mounts {
		if !p.Driven {
			continue
		}
		v, err := e.Volume(p.Name)
		if err == nil {
			err = v.mount()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// releaseVolumes unmounts what no container uses after the end of c.
func (e *Engine) releaseVolumes(ctx context.Context, c *Container) error {
	if !slices.ContainsFunc(c.Mounts, func(p MountPoint) bool { return p.Driven }) {
		return nil
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	users, err := e.VolumeUsers()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range c.Mounts {
		if !p.Driven || slices.ContainsFunc(users[p.Name], func(id string) bool { return id != c.ID && e.unfinished(id) }) {
			continue
		}
		v, err := e.Volume(p.Name)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue
		}
		if err == nil {
			err = v.unmount()
		}
		if errors.Is(err, unix.EBUSY) {
			continue // somebody on the host is in it
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unfinished says whether a container runs or has something left to finish.
func (e *Engine) unfinished(id string) bool {
	c, err := e.load(id)
	return err == nil && !c.State.Finished || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// fillMounted is fillEmpty of a volume that may have to be mounted for it.
func (e *Engine) fillMounted(ctx context.Context, v Volume, fill func() error) error {
	if !v.driven() {
		return fill()
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	was := mounted(v.Mountpoint)
	if err := v.mount(); err != nil {
		return err
	}
	err = fill()
	if !was {
		err = errors.Join(err, v.unmount())
	}
	return err
}
