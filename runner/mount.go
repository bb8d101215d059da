package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/runner/spec"
)

// mountPoints settles what will be mounted in the container: the user's wishes, then the
// image's volumes at places nobody asked for. Volumes are made, and new ones filled with
// what the image has there.
func (e *Engine) mountPoints(ctx context.Context, store *cache.Store, c *Container) ([]MountPoint, error) {
	wishes := slices.Clone(c.Options.Mounts)
	taken := map[string]bool{}
	for i := range wishes {
		w := &wishes[i]
		if !path.IsAbs(w.Target) {
			return nil, fmt.Errorf("invalid mount target %q: mount path must be absolute: %w", w.Target, errdefs.ErrInvalidArgument)
		}
		w.Target = path.Clean(w.Target)
		if taken[w.Target] || w.Target == "/" {
			return nil, fmt.Errorf("duplicate or invalid mount point: %s: %w", w.Target, errdefs.ErrInvalidArgument)
		}
		taken[w.Target] = true
	}
	for _, target := range slices.Sorted(maps.Keys(c.ImageConfig.Volumes)) {
		if target = path.Clean("/" + target); !taken[target] && target != "/" {
			wishes = append(wishes, MountRequest{Type: "volume", Target: target})
		}
	}
	var points []MountPoint
	for _, w := range wishes {
		p, err := e.mountPoint(ctx, store, c.ID, w)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	return points, nil
}

func (e *Engine) mountPoint(ctx context.Context, store *cache.Store, id string, w MountRequest) (MountPoint, error) {
	p := MountPoint{
		Type: w.Type, Source: w.Source, Destination: w.Target, RW: !w.ReadOnly,
		Propagation: w.Propagation, NoRecursive: w.NoRecursive, Options: w.Options,
	}
	switch w.Type {
	case "tmpfs":
		return p, nil
	case "bind":
		if p.Propagation == "" {
			p.Propagation = "rprivate"
		}
		return p, bindSource(w)
	case "volume":
		v, made, err := e.makeVolume(ctx, VolumeOptions{Name: w.Source, Driver: w.Driver, DriverOpts: w.DriverOpts, Labels: w.Labels})
		if err != nil {
			return p, err
		}
		p.Name, p.Source, p.Driver, p.Anonymous = v.Name, v.Mountpoint, "local", v.Anonymous
		p.Mode = "z"
		if (made || isEmpty(v.Mountpoint)) && !w.NoCopy {
			err = e.fillVolume(store, id, w.Target, v.Mountpoint)
		}
		return p, err
	}
	return p, fmt.Errorf("mount type %q: %w", w.Type, errdefs.ErrInvalidArgument)
}

// bindSource makes a missing directory if the user said -v; --mount wants it to exist.
func bindSource(w MountRequest) error {
	if !filepath.IsAbs(w.Source) {
		return fmt.Errorf("invalid mount path %q: mount path must be absolute: %w", w.Source, errdefs.ErrInvalidArgument)
	}
	_, err := os.Stat(w.Source)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !w.MakeSource {
		return worded(errdefs.ErrInvalidArgument, "invalid mount config for type \"bind\": bind source path does not exist: %s", w.Source)
	}
	return os.MkdirAll(w.Source, 0o755)
}

// specMounts are the mounts of a start: generated files first, then the user's, by depth.
func (e *Engine) specMounts(c *Container) []spec.Mount {
	var mounts []spec.Mount
	taken := map[string]bool{}
	for _, p := range c.Mounts {
		taken[p.Destination] = true
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		source := filepath.Join(e.dir(c.ID), name)
		if _, err := os.Stat(source); err == nil && !taken["/etc/"+name] {
			mounts = append(mounts, spec.Mount{Source: source, Target: "/etc/" + name, ReadOnly: c.Options.ReadOnly})
		}
	}
	points := slices.Clone(c.Mounts)
	slices.SortStableFunc(points, func(a, b MountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for _, p := range points {
		m := spec.Mount{Type: "bind", Source: p.Source, Target: p.Destination, ReadOnly: !p.RW, NoRecursive: p.NoRecursive, Options: p.Options}
		switch p.Type {
		case "tmpfs":
			m.Type, m.Source = "tmpfs", ""
		case "bind":
			m.Propagation = p.Propagation
		}
		mounts = append(mounts, m)
	}
	return mounts
}
