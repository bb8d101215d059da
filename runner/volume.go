package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// Volume is a directory that outlives containers.
type Volume struct {
	Name       string
	Driver     string
	Mountpoint string
	CreatedAt  time.Time
	Labels     map[string]string
	Scope      string
	Options    map[string]string
	Anonymous  bool `json:",omitempty"`
}

func (e *Engine) volumes() string              { return filepath.Join(e.Root, "volumes") }
func (e *Engine) volumeDir(name string) string { return filepath.Join(e.volumes(), name) }

func (e *Engine) lockVolumes(ctx context.Context) (func() error, error) {
	if err := os.MkdirAll(e.volumes(), 0o700); err != nil {
		return nil, err
	}
	return statefile.Lock(ctx, filepath.Join(e.Root, "volumes.lock"), statefile.LockOptions{})
}

// VolumeOptions define a volume.
type VolumeOptions struct {
	Name       string            // "" makes an anonymous one
	Driver     string            // "" is local, and there is no other
	DriverOpts map[string]string // type, device and o, as mount(8) has them
	Labels     map[string]string

	user string // the container that is being made with it
}

// CreateVolume makes a volume, or returns the one that has the name, whatever its options.
func (e *Engine) CreateVolume(ctx context.Context, o VolumeOptions) (Volume, error) {
	v, _, err := e.makeVolume(ctx, o)
	return v, err
}

// checkVolumeName is docker's rule (moby volume/service/store.go and volume/local).
func checkVolumeName(name string) error {
	switch {
	case len(name) == 1:
		return worded(errdefs.ErrInvalidArgument, "create %s: volume name is too short, names should be at least two alphanumeric characters", name)
	case len(name) > longestName:
		return worded(errdefs.ErrInvalidArgument, "create %.20s...: volume name is longer than %d bytes", name, longestName)
	case checkName(name) != nil:
		return worded(errdefs.ErrInvalidArgument, "create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. "+
			"If you intended to pass a host directory, use absolute path", name, name)
	}
	return nil
}

func (e *Engine) makeVolume(ctx context.Context, o VolumeOptions) (v Volume, made bool, err error) {
	name, anonymous := o.Name, o.Name == ""
	if anonymous {
		name = newID()
	}
	if err := checkVolumeName(name); err != nil {
		return v, false, err
	}
	if err := o.checkDriver(); err != nil {
		return v, false, err
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return v, false, err
	}
	defer unlock()
	if o.user != "" {
		if err := e.claimVolume(o.user, name); err != nil {
			return v, false, err
		}
	}
	if v, err := e.Volume(name); !errors.Is(err, errdefs.ErrNotFound) {
		if err == nil && o.user == "" {
			err = os.WriteFile(e.askedFor(name), nil, 0o600)
		}
		return v, false, err
	}
	if anonymous {
		o.Labels = maps.Clone(o.Labels)
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels["com.docker.volume.anonymous"] = ""
	}
	v = Volume{
		Name: name, Driver: "local", Mountpoint: filepath.Join(e.volumeDir(name), "_data"),
		CreatedAt: time.Now().UTC().Truncate(time.Second), Labels: orNil(o.Labels), Options: orNil(o.DriverOpts), Scope: "local", Anonymous: anonymous,
	}
	if err := os.MkdirAll(v.Mountpoint, 0o755); err != nil {
		return v, false, err
	}
	err = statefile.Write(filepath.Join(e.volumeDir(name), "volume.json"), &v, statefile.WriteOptions{Durable: true})
	if err == nil {
		e.Emit("volume", "create", name, map[string]string{"driver": v.Driver})
	}
	return v, true, err
}

// orNil is what docker shows of labels and options that nobody gave: null, not {}.
func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

// Volume returns a volume by its name.
func (e *Engine) Volume(name string) (Volume, error) {
	var v Volume
	if checkName(name) != nil {
		return v, noSuchVolume(name)
	}
	err := statefile.Read(filepath.Join(e.volumeDir(name), "volume.json"), &v)
	if errors.Is(err, fs.ErrNotExist) {
		return v, noSuchVolume(name)
	}
	// The root may have been moved since.
	v.Mountpoint = filepath.Join(e.volumeDir(name), "_data")
	return v, err
}

func noSuchVolume(name string) error {
	return worded(errdefs.ErrNotFound, "get %s: no such volume", name)
}

// Volumes returns the volumes that pass docker's filters (name, label, driver, dangling),
// by name. An unknown filter is an errdefs.ErrInvalidArgument.
func (e *Engine) Volumes(filters map[string][]string) ([]Volume, error) {
	all, err := e.allVolumes()
	if err != nil || len(filters) == 0 {
		return all, err
	}
	return e.filterVolumes(all, filters)
}

func (e *Engine) allVolumes() ([]Volume, error) {
	entries, err := os.ReadDir(e.volumes())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Volume
	for _, d := range entries {
		v, err := e.Volume(d.Name())
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // being made or removed
		}
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// usesName is the directory with the names of the volumes that a container is being made with: nobody may remove
// one that has been picked up before the container is recorded. It stays with the container.
const usesName = "uses"

// askedFor is a file that says that somebody wants a volume for itself which may be that of a container that is being made.
func (e *Engine) askedFor(volume string) string {
	return filepath.Join(e.volumeDir(volume), "asked-for")
}

// claimVolume notes that a container that is being made has a volume. The volumes are locked.
func (e *Engine) claimVolume(container, volume string) error {
	dir := filepath.Join(e.dir(container), usesName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, volume), nil, 0o600)
}

// claimedVolumes are the volumes of a container that is being made by somebody who lives.
func (e *Engine) claimedVolumes(container string) (names []string) {
	var by maker
	if statefile.Read(filepath.Join(e.dir(container), makerName), &by) != nil || !by.Alive() {
		return nil
	}
	entries, _ := os.ReadDir(filepath.Join(e.dir(container), usesName))
	for _, d := range entries {
		names = append(names, d.Name())
	}
	return names
}

// VolumeUsers returns the IDs of the containers that use each volume.
func (e *Engine) VolumeUsers() (map[string][]string, error) {
	ids, err := e.IDs()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, id := range ids {
		c, err := e.load(id)
		if errors.Is(err, fs.ErrNotExist) {
			claimed := e.claimedVolumes(id)
			if c, err = e.load(id); errors.Is(err, fs.ErrNotExist) { // not recorded while they were read either
				for _, name := range claimed {
					users[name] = append(users[name], id)
				}
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		for _, p := range c.Mounts {
			if p.Type == "volume" && !slices.Contains(users[p.Name], id) {
				users[p.Name] = append(users[p.Name], id)
			}
		}
	}
	return users, nil
}

// RemoveVolume removes a volume that no container uses; one that is in use is an
// errdefs.ErrConflict. With force a missing one is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return e.removeVolume(name, force)
}

// removeMadeVolume removes a volume that a container was to have, unless somebody else has been told that there is one.
func (e *Engine) removeMadeVolume(ctx context.Context, name string) error {
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(e.askedFor(name)); err == nil {
		return nil
	}
	return e.removeVolume(name, false)
}

// removeVolume is RemoveVolume while the volumes are locked.
func (e *Engine) removeVolume(name string, force bool) error {
	if _, err := e.Volume(name); err != nil {
		if force && errors.Is(err, errdefs.ErrNotFound) {
			return nil
		}
		return err
	}
	users, err := e.VolumeUsers()
	if err != nil {
		return err
	}
	if ids := users[name]; len(ids) > 0 {
		return worded(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", name, strings.Join(ids, ", "))
	}
	return e.dropVolume(name)
}

// dropVolume gives the volume another name first: whoever is killed while its files are removed leaves none
// of them to the next volume of the name.
func (e *Engine) dropVolume(name string) error {
	v := Volume{Name: name, Mountpoint: filepath.Join(e.volumeDir(name), "_data")}
	if err := v.unmount(); err != nil {
		return err
	}
	gone := filepath.Join(e.volumes(), removedPrefix+newID())
	if err := os.Rename(e.volumeDir(name), gone); err != nil {
		return err
	}
	e.Emit("volume", "destroy", name, map[string]string{"driver": "local"})
	return statefile.RemoveAll(gone)
}

// sweepVolumes removes what those have left that died while they removed a volume, or made one. What is not a volume's
// is not touched. The volumes are locked.
func (e *Engine) sweepVolumes() error {
	entries, err := os.ReadDir(e.volumes())
	var errs []error
	for _, d := range entries {
		dir := e.volumeDir(d.Name())
		if strings.HasPrefix(d.Name(), removedPrefix) {
			errs = append(errs, statefile.RemoveAll(dir))
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "volume.json")); errors.Is(err, fs.ErrNotExist) && checkName(d.Name()) == nil {
			_ = unix.Rmdir(filepath.Join(dir, "_data")) // unless somebody has put something there
			inside, _ := os.ReadDir(dir)
			if !slices.ContainsFunc(inside, func(d fs.DirEntry) bool { return !strings.HasPrefix(d.Name(), ".tmp-") }) { // of the record
				errs = append(errs, statefile.RemoveAll(dir))
			}
		}
	}
	return errors.Join(append(errs, err)...)
}

// PruneVolumes removes the volumes that no container uses: the anonymous ones, or all.
// It returns their names and what they held, in bytes.
func (e *Engine) PruneVolumes(ctx context.Context, o PruneVolumesOptions) (names []string, size int64, err error) {
	if err := checkFilters(o.Filters, "label", "label!", "all"); err != nil {
		return nil, 0, err
	}
	all, given, err := boolFilter(o.Filters, "all")
	if err != nil {
		return nil, 0, err
	}
	if given {
		o.All = all
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	if err := e.sweepVolumes(); err != nil {
		return nil, 0, err
	}
	users, err := e.VolumeUsers()
	if err != nil {
		return nil, 0, err
	}
	present, err := e.allVolumes()
	if err != nil {
		return nil, 0, err
	}
	for _, v := range present {
		// What has options is mounted from elsewhere, as a rule, and dockerd leaves it too.
		if len(users[v.Name]) > 0 || (!v.Anonymous && !o.All) || len(v.Options) > 0 || !hasLabels(v.Labels, o.Filters) {
			continue
		}
		size += diskUsage(v.Mountpoint)
		if err := e.dropVolume(v.Name); err != nil {
			return names, size, fmt.Errorf("removing volume %s: %w", v.Name, err)
		}
		names = append(names, v.Name)
	}
	slices.Sort(names)
	e.TellPruned("volume", size)
	return names, size, nil
}

// PruneVolumesOptions say which volumes go.
type PruneVolumesOptions struct {
	All     bool                // also those that have a name
	Filters map[string][]string // docker's label, label! and all
}

func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0
}

// diskUsage sums up the sizes of the files below dir, in bytes. One with several names there counts once.
func diskUsage(dir string) (n int64) {
	linked := map[uint64]bool{}
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st := info.Sys().(*syscall.Stat_t); st.Nlink > 1 {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		n += info.Size()
		return nil
	})
	return n
}
