package runner

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// ParseBind understands the text of -v and of the API's Binds: TARGET, SOURCE:TARGET and
// SOURCE:TARGET:OPTIONS, where a source that is no absolute path is a volume.
func ParseBind(text string) (MountRequest, error) {
	invalid := func(why string) error {
		return worded(errdefs.ErrInvalidArgument, "invalid volume specification: '%s'%s", text, why)
	}
	parts := strings.Split(text, ":")
	m := MountRequest{Type: "volume"}
	mode := ""
	switch {
	case text == "":
		return m, worded(errdefs.ErrInvalidArgument, "invalid empty volume spec")
	case len(parts) == 1:
		m.Target = parts[0]
	case len(parts) <= 3:
		m.Source, m.Target = parts[0], parts[1]
		if len(parts) == 3 {
			mode = parts[2]
		}
	default:
		return m, invalid("")
	}
	if m.Target == "" || len(parts) > 1 && m.Source == "" || len(parts) == 3 && mode == "" {
		return m, worded(errdefs.ErrInvalidArgument, "invalid spec: %s: empty section between colons", text)
	}
	if path.IsAbs(m.Source) {
		m.Type, m.MakeSource = "bind", true
	}
	if !path.IsAbs(m.Target) {
		return m, invalid(fmt.Sprintf(": invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", m.Type, m.Target))
	}
	if path.Clean(m.Target) == "/" {
		return m, invalid(fmt.Sprintf(": invalid mount config for type %q: invalid specification: destination can't be '/'", m.Type))
	}
	return m, m.setMode(mode)
}

// setMode understands the OPTIONS of -v. Of each kind there may be one.
func (m *MountRequest) setMode(mode string) error {
	if mode == "" {
		return nil
	}
	m.Mode = mode
	invalid := worded(errdefs.ErrInvalidArgument, "invalid mode: %s", mode)
	kinds := map[string]string{
		"ro": "access", "rw": "access", "z": "label", "Z": "label", "U": "owner", "nocopy": "copy",
		"consistent": "consistency", "cached": "consistency", "delegated": "consistency", "default": "consistency",
		"exec": "exec", "noexec": "exec", "suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev",
	}
	var seen []string
	for option := range strings.SplitSeq(mode, ",") {
		kind, ok := kinds[option]
		if IsPropagation(option) {
			kind, ok = "propagation", true
		}
		if isIDMap(option) {
			kind, ok = "idmap", true
		}
		if !ok || slices.Contains(seen, kind) {
			return invalid
		}
		seen = append(seen, kind)
		switch kind {
		case "access":
			m.ReadOnly = option == "ro"
		case "owner":
			m.Chown = true
		case "copy":
			m.NoCopy = true
		case "propagation":
			m.Propagation = option
		case "exec", "suid", "dev", "idmap":
			m.Options = append(m.Options, option)
		}
	}
	if m.Type == "volume" && m.Propagation != "" || m.Type == "bind" && m.NoCopy {
		return invalid
	}
	return nil
}

// isIDMap says whether an option of a mount maps owners: podman's idmap[=uids=...;gids=...].
func isIDMap(s string) bool { return s == "idmap" || strings.HasPrefix(s, "idmap=") }

// IsPropagation says whether s is a word of mount(8) for how mounts below are shared.
func IsPropagation(s string) bool {
	switch s {
	case "private", "rprivate", "shared", "rshared", "slave", "rslave":
		return true
	}
	return false
}

// parseVolumesFrom understands CONTAINER[:MODE] of --volumes-from.
func parseVolumesFrom(text string) (container string, m MountRequest, err error) {
	if text == "" {
		return "", m, worded(errdefs.ErrInvalidArgument, "volumes-from specification cannot be an empty string")
	}
	container, mode, _ := strings.Cut(text, ":")
	if container == "" {
		return "", m, worded(errdefs.ErrInvalidArgument, "malformed volumes-from specification: %q", text)
	}
	m.Type = "bind"
	err = m.setMode(mode)
	if m.Propagation != "" || m.Chown {
		err = worded(errdefs.ErrInvalidArgument, "invalid mode: %s", mode)
	}
	return container, m, err
}
