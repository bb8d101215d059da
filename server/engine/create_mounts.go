package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"github.com/teu-dev/teu/runner"
)

// setMounts reads the four ways docker has to ask for a mount: Binds, Mounts, Tmpfs and
// Config.Volumes.
func setMounts(b *createRequest, o *runner.Options) error {
	for _, text := range b.HostConfig.Binds {
		if strings.Count(text, ":") == 2 {
			text = strings.TrimSuffix(text, ":") // options may be empty here, not on the command line
		}
		m, err := runner.ParseBind(text)
		if err != nil {
			return err
		}
		m.ReadOnlyNonRecursive = b.shallowReadOnly && m.ReadOnly && m.Type == "bind"
		o.Mounts = append(o.Mounts, m)
	}
	for _, spec := range b.HostConfig.Mounts {
		m, err := mountRequest(spec)
		if err != nil {
			return err
		}
		if m.Long = true; m.ReadOnly && m.Type == "bind" && b.shallowReadOnly {
			m.ReadOnlyNonRecursive = true
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, target := range slices.Sorted(maps.Keys(b.HostConfig.Tmpfs)) {
		m := runner.MountRequest{Type: "tmpfs", Target: target}
		if opts := b.HostConfig.Tmpfs[target]; opts != "" {
			m.Options = strings.Split(opts, ",")
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, target := range slices.Sorted(maps.Keys(b.Volumes)) {
		taken := slices.ContainsFunc(o.Mounts, func(m runner.MountRequest) bool { return path.Clean(m.Target) == path.Clean(target) })
		if !taken {
			o.Mounts = append(o.Mounts, runner.MountRequest{Type: "volume", Target: target})
		}
	}
	return nil
}

// mountRequest reads an element of Mounts.
func mountRequest(s mount.Mount) (m runner.MountRequest, err error) {
	bad := func(why string) error { return invalid("invalid mount config for type %q: %s", s.Type, why) }
	m = runner.MountRequest{Type: string(s.Type), Source: s.Source, Target: s.Target, ReadOnly: s.ReadOnly}
	switch {
	case s.Target == "":
		return m, bad("field Target must not be empty")
	case !path.IsAbs(s.Target):
		return m, bad(fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", s.Target))
	case path.Clean(s.Target) == "/":
		return m, bad("invalid specification: destination can't be '/'")
	}
	for _, x := range []struct {
		of    mount.Type
		name  string
		given bool
	}{
		{mount.TypeBind, "BindOptions", s.BindOptions != nil}, {mount.TypeVolume, "VolumeOptions", s.VolumeOptions != nil},
		{mount.TypeImage, "ImageOptions", s.ImageOptions != nil}, {mount.TypeTmpfs, "TmpfsOptions", s.TmpfsOptions != nil},
	} {
		if x.given && x.of != s.Type {
			return m, bad("field " + x.name + " must not be specified")
		}
	}
	switch s.Type {
	case mount.TypeBind:
		return bindRequest(m, s, bad)
	case mount.TypeVolume:
		if v := s.VolumeOptions; v != nil {
			if v.Subpath != "" && s.Source == "" {
				return m, bad("must not set Subpath when using anonymous volumes")
			}
			m.NoCopy, m.Labels, m.Subpath = v.NoCopy, v.Labels, v.Subpath
			if d := v.DriverConfig; d != nil {
				m.Driver, m.DriverOpts = d.Name, d.Options
			}
		}
	case mount.TypeTmpfs:
		if s.Source != "" {
			return m, bad("field Source must not be specified")
		}
		if t := s.TmpfsOptions; t != nil {
			if t.SizeBytes < 0 {
				return m, bad("field TmpfsOptions.SizeBytes must not be negative")
			}
			if t.SizeBytes > 0 {
				m.Options = append(m.Options, fmt.Sprintf("size=%d", t.SizeBytes))
			}
			if t.Mode != 0 {
				m.Options = append(m.Options, fmt.Sprintf("mode=%o", t.Mode))
			}
			for _, opt := range t.Options {
				if len(opt) == 0 || len(opt) > 2 {
					return m, bad("invalid option array length")
				}
				if opt[0] != "exec" && opt[0] != "noexec" {
					return m, bad("invalid option: " + opt[0])
				}
				m.Options = append(m.Options, strings.Join(opt, "="))
			}
		}
	case mount.TypeImage:
		if i := s.ImageOptions; i != nil {
			m.Subpath = i.Subpath
		}
	default:
		return m, bad("mount type unknown")
	}
	return m, nil
}

func bindRequest(m runner.MountRequest, s mount.Mount, bad func(string) error) (runner.MountRequest, error) {
	switch {
	case s.Source == "":
		return m, bad("field Source must not be empty")
	case !path.IsAbs(s.Source):
		return m, bad(fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", s.Source))
	}
	if b := s.BindOptions; b != nil {
		if p := string(b.Propagation); p != "" && !runner.IsPropagation(p) {
			return m, bad("invalid propagation mode: " + p)
		}
		m.Propagation, m.NoRecursive, m.MakeSource = string(b.Propagation), b.NonRecursive, b.CreateMountpoint
		switch {
		case !m.ReadOnly && b.ReadOnlyNonRecursive:
			return m, bad("mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")
		case !m.ReadOnly && b.ReadOnlyForceRecursive:
			return m, bad("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")
		case b.ReadOnlyNonRecursive && b.ReadOnlyForceRecursive:
			return m, bad("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
		}
		m.ReadOnlyNonRecursive, m.ReadOnlyForceRecursive = b.ReadOnlyNonRecursive, b.ReadOnlyForceRecursive
	}
	return m, nil
}
