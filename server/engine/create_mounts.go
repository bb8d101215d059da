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
		m, err := bind(text)
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

// bind reads an element of Binds: SOURCE:TARGET[:OPTIONS]; a source that is no absolute
// path is a volume's name.
func bind(text string) (m runner.MountRequest, err error) {
	parts := strings.Split(text, ":")
	bad := invalid("invalid volume specification: '%s'", text)
	if len(parts) > 3 || slices.Contains(parts[:min(len(parts), 2)], "") {
		return m, bad
	}
	m = runner.MountRequest{Type: "volume", Target: parts[len(parts)-1]}
	if len(parts) > 1 {
		m.Source, m.Target = parts[0], parts[1]
	}
	if !path.IsAbs(m.Target) {
		return m, invalid("invalid volume specification: '%s': invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", text, kindOf(m.Source), m.Target)
	}
	if path.Clean(m.Target) == "/" {
		return m, invalid("invalid volume specification: '%s': invalid mount config for type %q: invalid specification: destination can't be '/'", text, kindOf(m.Source))
	}
	if kindOf(m.Source) == "bind" {
		m.Type, m.MakeSource = "bind", true
	}
	if len(parts) < 3 {
		return m, nil
	}
	m.Mode = parts[2]
	for opt := range strings.SplitSeq(parts[2], ",") {
		switch opt {
		case "", "rw", "z", "Z", "consistent", "cached", "delegated":
		case "ro":
			m.ReadOnly = true
		case "U":
			m.Chown = true
		case "nocopy":
			if m.Type == "bind" {
				return m, invalid("invalid mode: %s", parts[2])
			}
			m.NoCopy = true
		case "copy":
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			m.Propagation = opt
		default:
			return m, invalid("invalid mode: %s", parts[2])
		}
	}
	return m, nil
}

func kindOf(source string) string {
	if path.IsAbs(source) {
		return "bind"
	}
	return "volume"
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
	switch s.Type {
	case mount.TypeBind:
		return bindRequest(m, s, bad)
	case mount.TypeVolume:
		if s.BindOptions != nil || s.TmpfsOptions != nil {
			return m, bad("field BindOptions must not be specified")
		}
		if v := s.VolumeOptions; v != nil {
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
			if t.SizeBytes > 0 {
				m.Options = append(m.Options, fmt.Sprintf("size=%d", t.SizeBytes))
			}
			if t.Mode != 0 {
				m.Options = append(m.Options, fmt.Sprintf("mode=%o", t.Mode))
			}
			for _, opt := range t.Options {
				m.Options = append(m.Options, strings.Join(opt, "="))
			}
		}
	case mount.TypeImage:
		if i := s.ImageOptions; i != nil {
			m.Subpath = i.Subpath
		}
	default:
		return m, invalid("mount type unknown: %q", s.Type)
	}
	return m, nil
}

func bindRequest(m runner.MountRequest, s mount.Mount, bad func(string) error) (runner.MountRequest, error) {
	switch {
	case s.Source == "":
		return m, bad("field Source must not be empty")
	case !path.IsAbs(s.Source):
		return m, bad(fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", s.Source))
	case s.VolumeOptions != nil:
		return m, bad("field VolumeOptions must not be specified")
	}
	if b := s.BindOptions; b != nil {
		m.Propagation, m.NoRecursive, m.MakeSource = string(b.Propagation), b.NonRecursive, b.CreateMountpoint
		m.ReadOnlyNonRecursive, m.ReadOnlyForceRecursive = b.ReadOnlyNonRecursive, b.ReadOnlyForceRecursive
	}
	return m, nil
}
