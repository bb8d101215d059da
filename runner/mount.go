package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/spec"
)

// mountPoints settles what will be mounted in the container: the user's wishes, then what
// other containers have, then the image's volumes at places nobody asked for. Volumes are
// made, and new ones filled with what the image has there.
func (e *Engine) mountPoints(ctx context.Context, store *cache.Store, c *Container) ([]MountPoint, error) {
	wishes := slices.Clone(c.Options.Mounts)
	taken := map[string]bool{}
	for i := range wishes {
		w := &wishes[i]
		if !path.IsAbs(w.Target) {
			return nil, worded(errdefs.ErrInvalidArgument, "invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", w.Type, w.Target)
		}
		w.Target = path.Clean(w.Target)
		if w.Target == "/" {
			return nil, worded(errdefs.ErrInvalidArgument, "invalid mount config for type %q: invalid specification: destination can't be '/'", w.Type)
		}
		if strings.HasPrefix(w.Target+"/", "/proc/") && !slices.Contains(procFiles(), w.Target) && !isProc(w.Source) {
			return nil, worded(errdefs.ErrInvalidArgument, "invalid mount config for type %q: %q cannot be mounted because it is inside /proc", w.Type, w.Target)
		}
		if taken[w.Target] {
			return nil, worded(errdefs.ErrInvalidArgument, "Duplicate mount point: %s", w.Target)
		}
		taken[w.Target] = true
	}
	for _, w := range wishes {
		if w.anonymous() {
			delete(taken, w.Target)
		}
	}
	points, err := e.mountsFrom(ctx, c, taken)
	if err != nil {
		return nil, err
	}
	// A volume without a name says only that there is to be one: another container's will do.
	wishes = slices.DeleteFunc(wishes, func(w MountRequest) bool { return w.anonymous() && taken[w.Target] })
	for _, w := range wishes {
		taken[w.Target] = true
	}
	for _, target := range slices.Sorted(maps.Keys(c.ImageConfig.Volumes)) {
		if target = path.Clean("/" + target); !taken[target] && target != "/" {
			wishes = append(wishes, MountRequest{Type: "volume", Target: target})
		}
	}
	for _, w := range wishes {
		p, err := e.mountPoint(ctx, store, c, w)
		if err != nil {
			return append(points, p), err
		}
		points = append(points, p)
	}
	return points, makeSources(wishes)
}

// makeSources makes the directories of -v that are missing. They come last: what is refused leaves none.
func makeSources(wishes []MountRequest) error {
	for _, w := range wishes {
		if w.Type == "bind" && w.MakeSource {
			if _, err := os.Stat(w.Source); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := os.MkdirAll(w.Source, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountsFrom are the volumes and binds of other containers, except at places that are taken. Of two at one
// place the later counts. The places are taken then.
func (e *Engine) mountsFrom(ctx context.Context, c *Container, taken map[string]bool) (points []MountPoint, err error) {
	for _, text := range c.Options.VolumesFrom {
		ref, mode, err := parseVolumesFrom(text)
		if err != nil {
			return nil, err
		}
		other, err := e.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		for _, p := range other.Mounts {
			if p.Type != "volume" && p.Type != "bind" || taken[p.Destination] {
				continue
			}
			if err := e.shareVolume(ctx, c, p, ref); err != nil {
				return nil, err
			}
			p.RW, p.Mode = p.RW && !mode.ReadOnly, ""
			points = slices.DeleteFunc(points, func(before MountPoint) bool { return before.Destination == p.Destination })
			points = append(points, p)
		}
	}
	for _, p := range points {
		taken[p.Destination] = true
	}
	return points, nil
}

// shareVolume sees that a volume of the container ref stays when that is removed before c is recorded.
func (e *Engine) shareVolume(ctx context.Context, c *Container, p MountPoint, ref string) error {
	if p.Type != "volume" {
		return nil
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.claimVolume(c.ID, p.Name); err != nil {
		return err
	}
	if _, err = e.Volume(p.Name); errors.Is(err, errdefs.ErrNotFound) {
		if _, gone := e.resolve(ref); gone != nil { // by now
			return gone
		}
	}
	return err
}

// procFiles may be covered, as runc allows for the sake of lxcfs (libcontainer, checkProcMount):
// whatever else of /proc is covered could deceive what protects the container.
func procFiles() []string {
	return []string{"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
		"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled"}
}

// isProc says whether path is in a procfs, which may be mounted in another one.
func isProc(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
}

// anonymous says that a volume is asked for by its place alone, as by -v /data.
func (w *MountRequest) anonymous() bool {
	return w.Type == "volume" && w.Source == "" && !w.Long
}

func (e *Engine) mountPoint(ctx context.Context, store *cache.Store, c *Container, w MountRequest) (MountPoint, error) {
	p := MountPoint{
		Type: w.Type, Source: w.Source, Destination: w.Target, RW: !w.ReadOnly, Propagation: w.Propagation, Mode: w.Mode,
		MountDetails: MountDetails{
			NoRecursive: w.NoRecursive, ReadOnlyNonRecursive: w.ReadOnlyNonRecursive, ReadOnlyForceRecursive: w.ReadOnlyForceRecursive,
			Chown: w.Chown, Subpath: w.Subpath, Options: w.Options,
		},
	}
	if w.Subpath != "" && !filepath.IsLocal(w.Subpath) {
		return p, worded(errdefs.ErrInvalidArgument, "invalid mount config for type %q: subpath must be a relative path within the volume", w.Type)
	}
	switch w.Type {
	case "tmpfs":
		return p, nil
	case "image":
		return e.imageMount(ctx, store, c, w, p)
	case "bind":
		if p.Propagation == "" {
			p.Propagation = "rprivate"
		}
		return p, bindSource(w)
	case "volume":
		v, made, err := e.makeVolume(ctx, VolumeOptions{Name: w.Source, Driver: w.Driver, DriverOpts: w.DriverOpts, Labels: w.Labels, user: c.ID})
		if err != nil {
			return p, err
		}
		p.Name, p.Source, p.Driver, p.Anonymous, p.Driven = v.Name, v.Mountpoint, "local", v.Anonymous, v.driven()
		p.made = made
		if p.Mode == "" && (w.Source != "" || w.Long) {
			p.Mode = "z" // docker's default, but for anonymous volumes of -v and images
		}
		if err := e.finishFilling(ctx, v.Name); err != nil {
			return p, err
		}
		if w.NoCopy || w.Subpath == "" && !made && !v.driven() && !isEmpty(v.Mountpoint) {
			return p, nil
		}
		return p, e.fillMounted(ctx, v, func() error { return e.fillEmpty(ctx, store, c, w, v) })
	}
	return p, fmt.Errorf("mount type %q: %w", w.Type, errdefs.ErrInvalidArgument)
}

// imageMount mounts the files of another image, for reading.
func (e *Engine) imageMount(ctx context.Context, store *cache.Store, c *Container, w MountRequest, p MountPoint) (MountPoint, error) {
	img, layers, err := e.image(ctx, store, Options{Image: w.Source})
	if errors.Is(err, errdefs.ErrNotFound) {
		return p, worded(errdefs.ErrNotFound, "No such image: %s", WithTag(w.Source))
	}
	if err != nil {
		return p, err
	}
	p.ImageID = img.Manifest.Config.Digest
	if p.Layers, err = store.Layers.Stack(ctx, layers); err != nil {
		return p, err
	}
	if layers, p.Layers, err = e.ownLayers(ctx, store, c, layers, p.Layers); err != nil {
		return p, err
	}
	p.RW = false
	// The layers stay as long as the container does. The pin of Create protects them until then.
	return p, store.Lease(ctx, imageLeaseName(c.ID, w.Target), cache.Lease{Manifest: img.Descriptor.Digest, Layers: layers})
}

// imageLeaseName is the lease of an image that is mounted at a place.
func imageLeaseName(id, target string) string {
	sum := sha256.Sum256([]byte(target))
	return leaseName(id) + "-" + hex.EncodeToString(sum[:6])
}

// bindSource refuses what cannot be mounted. A missing directory will be made if the user said -v; --mount wants it to exist.
func bindSource(w MountRequest) error {
	if !filepath.IsAbs(w.Source) {
		return worded(errdefs.ErrInvalidArgument, "invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", w.Source)
	}
	_, err := os.Stat(w.Source)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !w.MakeSource {
		return worded(errdefs.ErrInvalidArgument, "invalid mount config for type \"bind\": bind source path does not exist: %s", w.Source)
	}
	return nil
}

// specMounts are the mounts of a start: generated files first, then the user's, by depth.
func (e *Engine) specMounts(c *Container) []spec.Mount {
	var mounts []spec.Mount
	mapped := func(options []string) []string { // what teu made belongs to the container's users
		if !c.UserIDs.mapped() || slices.ContainsFunc(options, isIDMap) {
			return options
		}
		return append(slices.Clone(options), "idmap")
	}
	for _, name := range e.mountedFiles(c) {
		mounts = append(mounts, spec.Mount{
			Source: filepath.Join(e.dir(c.ID), name), Target: "/etc/" + name, ReadOnly: c.Options.ReadOnly, Options: mapped(nil),
		})
	}
	points := slices.Clone(c.Mounts)
	slices.SortStableFunc(points, func(a, b MountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for _, p := range points {
		m := spec.Mount{
			Type: "bind", Source: p.Source, Target: p.Destination, ReadOnly: !p.RW, NoRecursive: p.NoRecursive, Options: p.Options,
			ReadOnlyNonRecursive: p.ReadOnlyNonRecursive, ReadOnlyForceRecursive: p.ReadOnlyForceRecursive,
		}
		switch p.Type {
		case "tmpfs":
			m.Type, m.Source = "tmpfs", ""
		case "image":
			options := []string{"ro", "lowerdir=" + strings.Join(p.Layers, ":")}
			if mount.NeedsUserXattr() {
				options = append(options, "userxattr")
			}
			m.Type, m.Source, m.Options = "overlay", "", mapped(options)
		case "volume":
			m.Options = mapped(p.Options)
		case "bind":
			m.Propagation = p.Propagation
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// giveToUser changes the owner of what is mounted with the option U, as podman does.
func giveToUser(c *Container, uid, gid int) error {
	for _, p := range c.Mounts {
		if !p.Chown || p.Type != "bind" && p.Type != "volume" {
			continue
		}
		owner, group := uid, gid
		if !slices.ContainsFunc(p.Options, isIDMap) && (p.Type == "bind" || c.UserIDs.copied()) { // where nothing is mapped
			owner, group = c.UserIDs.outside(uid, gid)
		}
		if err := chownTree(p.Source, owner, group); err != nil {
			return fmt.Errorf("giving %s to the container's user: %w", p.Source, err)
		}
	}
	return nil
}

// chownTree changes the owner of everything below dir. Nothing outside is reached, whatever
// a container that has it mounted does meanwhile: names are looked up below the directory
// that is held open (os.Root).
func chownTree(dir string, uid, gid int) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, unix.ENOTDIR) {
		return os.Lchown(dir, uid, gid)
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) == uid && int(st.Gid) == gid {
			return nil
		}
		return root.Lchown(name, uid, gid)
	})
}
