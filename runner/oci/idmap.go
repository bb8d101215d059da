package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// idMapped says that a mount shows other owners than its files have.
func idMapped(m specs.Mount) bool {
	return len(m.UIDMappings)+len(m.GIDMappings) > 0 || slices.ContainsFunc(m.Options, func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return name == "idmap" || name == "ridmap"
	})
}

// mapIDs makes a mount show other owners than its files have; mount_setattr(2), "ID-mapped
// mounts". The maps are the mount's own, those behind crun's "idmap=", or else those of
// the container's user namespace.
func (c *compiler) mapIDs(fd launch.Ref, m specs.Mount, o mountOptions) error {
	uids, gids := m.UIDMappings, m.GIDMappings
	if !idMapped(m) {
		return nil
	}
	if o.idmapText != "" {
		var err error
		if uids, gids, err = c.parseIDMap(o.idmapText); err != nil {
			return err
		}
	}
	var ns launch.Ref
	switch {
	case len(uids) > 0 && len(gids) > 0:
		ns = c.UserNamespace(mappingText(uids), mappingText(gids), false)
	case len(uids)+len(gids) > 0:
		return fmt.Errorf("id mappings for users without groups or the reverse: %w", errdefs.ErrInvalidArgument)
	case c.user:
		ns = c.namespaceOfUser()
	default:
		return fmt.Errorf("%s without mappings or a user namespace: %w", o.idmap, errdefs.ErrInvalidArgument)
	}
	flags := 0
	if o.idmap == "ridmap" {
		flags |= unix.AT_RECURSIVE
	}
	c.noteMapping(m.Source)
	c.mapTree(fd, ns, flags)
	return nil
}

// userPath is the path of a user namespace that is given.
func (c *compiler) userPath() string {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace {
			return ns.Path
		}
	}
	return ""
}

// parseIDMap reads crun's form: "uids=0-1000-10#10-2000-5;gids=@0-0-10", that is
// inside-outside-size, and with @ the outside is an id of the container.
func (c *compiler) parseIDMap(text string) (uids, gids []specs.LinuxIDMapping, err error) {
	for part := range strings.SplitSeq(text, ";") {
		key, list, _ := strings.Cut(part, "=")
		switch key {
		case "uids":
			uids, err = parseIDList(list, c.spec.Linux.UIDMappings)
		case "gids":
			gids, err = parseIDList(list, c.spec.Linux.GIDMappings)
		default:
			err = fmt.Errorf("idmap option %q: %w", part, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return uids, gids, nil
}

func parseIDList(text string, container []specs.LinuxIDMapping) (list []specs.LinuxIDMapping, err error) {
	for entry := range strings.SplitSeq(text, "#") {
		entry, relative := strings.CutPrefix(entry, "@")
		var n [3]uint32
		fields := strings.Split(entry, "-")
		if len(fields) != len(n) || len(list) >= maxMappings {
			return nil, fmt.Errorf("id mapping %q: %w", entry, errdefs.ErrInvalidArgument)
		}
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("id mapping %q: %w", entry, errdefs.ErrInvalidArgument)
			}
			n[i] = uint32(v)
		}
		m := specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]}
		if relative {
			if m.HostID, err = outside(m, container); err != nil {
				return nil, err
			}
		}
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > 1<<32 || uint64(m.HostID)+uint64(m.Size) > 1<<32 {
			return nil, fmt.Errorf("id mapping %q: %w", entry, errdefs.ErrInvalidArgument)
		}
		list = append(list, m)
	}
	return list, nil
}

// outside is the host's id of a range of the container's ids.
func outside(m specs.LinuxIDMapping, container []specs.LinuxIDMapping) (uint32, error) {
	for _, c := range container {
		from, to := uint64(m.HostID), uint64(m.HostID)+uint64(m.Size)
		if from >= uint64(c.ContainerID) && to <= uint64(c.ContainerID)+uint64(c.Size) {
			return m.HostID - c.ContainerID + c.HostID, nil
		}
	}
	return 0, fmt.Errorf("ids %d to %d are not mapped in the container: %w", m.HostID, uint64(m.HostID)+uint64(m.Size), errdefs.ErrInvalidArgument)
}
