package runner

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/userns"
)

// usernsMode is what Options.UsernsMode asks for: podman's --userns.
type usernsMode struct {
	kind       string  // "host", "auto", "keep-id", "nomap" or "container"
	container  string  // whose namespace it is
	size       uint32  // auto: of IDs; 0: teu decides
	uid, gid   *uint32 // keep-id: who the user is inside; nil: who it is outside
	uids, gids []specs.LinuxIDMapping
}

// defaultIDs is how many IDs a container gets that does not ask for more: all that 16 bits
// name, nobody among them.
const defaultIDs = 1 << 16

// parseUserns understands host, auto[:size=N,uidmapping=INSIDE:OUTSIDE:SIZE,gidmapping=...],
// keep-id[:uid=N,gid=N], nomap and container:NAME.
func parseUserns(text string) (m usernsMode, err error) {
	kind, options, given := strings.Cut(text, ":")
	m.kind = kind
	switch {
	case text == "", text == "host":
		m.kind = "host"
		return m, nil
	case kind == "container" && options != "":
		m.container = options
		return m, nil
	case kind == "nomap" && !userns.Inside():
		return m, worded(errdefs.ErrInvalidArgument, "--userns nomap is for containers of ordinary users: as root say auto, which maps nobody of the host either")
	case kind == "keep-id" && given && !userns.Inside():
		return m, worded(errdefs.ErrInvalidArgument, "--userns %s: options of keep-id are for containers of ordinary users", text)
	case !slices.Contains([]string{"auto", "keep-id", "nomap"}, kind), kind == "nomap" && given:
		return m, worded(errdefs.ErrInvalidArgument, "--userns: invalid USER mode %q: it is host, auto[:OPTIONS], keep-id[:OPTIONS], nomap or container:NAME", text)
	case !given:
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		set := m.option
		if kind == "keep-id" {
			set = m.keepOption
		}
		if err := set(option); err != nil {
			return m, fmt.Errorf("--userns %s: %w", text, err)
		}
	}
	return m, nil
}

// keepOption understands uid=N and gid=N.
func (m *usernsMode) keepOption(option string) error {
	key, value, _ := strings.Cut(option, "=")
	n, err := strconv.ParseUint(value, 10, 31)
	id := uint32(n)
	switch {
	case err != nil:
		return worded(errdefs.ErrInvalidArgument, "%q is no ID", value)
	case key == "uid":
		m.uid = &id
	case key == "gid":
		m.gid = &id
	default:
		return worded(errdefs.ErrInvalidArgument, "unknown option %q", key)
	}
	return nil
}

func (m *usernsMode) option(option string) error {
	key, value, _ := strings.Cut(option, "=")
	var list *[]specs.LinuxIDMapping
	switch key {
	case "size":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 0 || n > math.MaxInt32 {
			return worded(errdefs.ErrInvalidArgument, "size %q is no number of IDs", value)
		}
		m.size = uint32(n)
		return nil
	case "uidmapping":
		list = &m.uids
	case "gidmapping":
		list = &m.gids
	default:
		return worded(errdefs.ErrInvalidArgument, "unknown option %q", key)
	}
	r, err := parseMapping(value)
	if err != nil {
		return err
	}
	if overlaps(*list, r) {
		return worded(errdefs.ErrInvalidArgument, "%s maps an ID twice", option)
	}
	if len(*list) == maxOwnMappings {
		return worded(errdefs.ErrInvalidArgument, "more than %d mappings", maxOwnMappings)
	}
	*list = append(*list, r)
	return nil
}

// maxOwnMappings keeps within the kernel's 340 lines with the gaps between them.
const maxOwnMappings = 100

// parseMapping reads INSIDE:OUTSIDE:SIZE.
func parseMapping(text string) (r specs.LinuxIDMapping, err error) {
	var n [3]uint32
	fields := strings.Split(text, ":")
	for i, f := range fields {
		v, err := strconv.ParseUint(f, 10, 32)
		if err != nil || len(fields) != len(n) {
			return r, worded(errdefs.ErrInvalidArgument, "mapping %q is not INSIDE:OUTSIDE:SIZE", text)
		}
		n[i] = uint32(v)
	}
	r = specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]}
	if r.Size == 0 || uint64(r.ContainerID)+uint64(r.Size) >= 1<<32 || uint64(r.HostID)+uint64(r.Size) >= 1<<32 {
		return r, worded(errdefs.ErrInvalidArgument, "mapping %q is empty or beyond the last ID", text)
	}
	return r, nil
}

// overlaps says whether r has an ID in common with the list, on either side.
func overlaps(list []specs.LinuxIDMapping, r specs.LinuxIDMapping) bool {
	meet := func(a, n, b, k uint32) bool {
		return uint64(a) < uint64(b)+uint64(k) && uint64(b) < uint64(a)+uint64(n)
	}
	return slices.ContainsFunc(list, func(o specs.LinuxIDMapping) bool {
		return meet(o.ContainerID, o.Size, r.ContainerID, r.Size) || meet(o.HostID, o.Size, r.HostID, r.Size)
	})
}

// gaps are the IDs from 0 to size that own does not map, as mappings without an outside.
func gaps(own []specs.LinuxIDMapping, size uint32) (list []specs.LinuxIDMapping, count uint32) {
	own = slices.Clone(own)
	slices.SortFunc(own, func(a, b specs.LinuxIDMapping) int { return int(int64(a.ContainerID) - int64(b.ContainerID)) })
	next := uint32(0)
	for _, r := range append(own, specs.LinuxIDMapping{ContainerID: math.MaxUint32}) {
		if end := min(r.ContainerID, size); end > next {
			list = append(list, specs.LinuxIDMapping{ContainerID: next, Size: end - next})
			count += end - next
		}
		next = max(next, r.ContainerID+r.Size)
	}
	return list, count
}

// UserIDs are the IDs of a container's user namespace.
type UserIDs struct {
	UIDs, GIDs []specs.LinuxIDMapping
	// OnDisk says that the container's files, and those in its volumes, have the owners outside
	// on disk, as an ordinary user's must. Else they have those inside, and mounts map them.
	OnDisk bool `json:",omitempty"`
}

// mapped says whether mounts have to map the owners of files.
func (u *UserIDs) mapped() bool { return u.shifted() && !u.OnDisk }

// copied says whether the container's files are a copy of the image's with other owners.
func (u *UserIDs) copied() bool { return u.shifted() && u.OnDisk }

// shifted says whether anybody inside is somebody else outside: u is nil without a namespace.
func (u *UserIDs) shifted() bool {
	return u != nil && slices.ContainsFunc(slices.Concat(u.UIDs, u.GIDs), func(r specs.LinuxIDMapping) bool { return r.ContainerID != r.HostID })
}

// outside is the user and group of the host that a container's are.
func (u *UserIDs) outside(uid, gid int) (int, int) {
	if u == nil {
		return uid, gid
	}
	return translate(u.UIDs, uid), translate(u.GIDs, gid)
}

// overflowID is who owns what belongs to nobody; proc_sys_fs(5), overflowuid.
const overflowID = 65534

func translate(list []specs.LinuxIDMapping, id int) int {
	if to, ok := find(list, id); ok {
		return to
	}
	return overflowID
}

// find is who an ID is on the other side.
func find(list []specs.LinuxIDMapping, id int) (to int, ok bool) {
	for _, r := range list {
		if id >= int(r.ContainerID) && id < int(r.ContainerID)+int(r.Size) {
			return id - int(r.ContainerID) + int(r.HostID), true
		}
	}
	return 0, false
}

// inside is the user and group of the container that the host's are.
func (u *UserIDs) inside(uid, gid int) (int, int) {
	if u == nil {
		return uid, gid
	}
	return translate(inverse(u.UIDs), uid), translate(inverse(u.GIDs), gid)
}

// inverse exchanges inside and outside.
func inverse(list []specs.LinuxIDMapping) (out []specs.LinuxIDMapping) {
	for _, r := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: r.HostID, HostID: r.ContainerID, Size: r.Size})
	}
	return out
}

// checkUserns refuses what does not go with a user namespace of the container's own.
func (o *Options) checkUserns() error {
	if o.UsernsMode == "" || o.UsernsMode == "host" {
		return nil
	}
	m, err := parseUserns(o.UsernsMode)
	if m.kind == "container" { // what else of it is shared is in the same namespace
		return err
	}
	if err == nil && strings.HasPrefix(o.PIDMode, "container:") {
		err = worded(errdefs.ErrInvalidArgument, "conflicting options: --pid %s and --userns %s: Linux shows the processes of another user namespace to nobody in this one; say --userns host or --pid host", o.PIDMode, m.kind)
	}
	if err == nil && strings.HasPrefix(o.IPCMode, "container:") {
		err = worded(errdefs.ErrInvalidArgument, "conflicting options: --ipc %s and --userns %s: the IPC namespace belongs to another user namespace; say --userns host", o.IPCMode, m.kind)
	}
	return err
}

// checkShared refuses to share the namespaces of another container than that whose user namespace
// is shared, which would be of another user namespace.
func (o *Options) checkShared() error {
	for _, mode := range []struct{ name, of string }{{"pid", o.PIDMode}, {"ipc", o.IPCMode}} {
		if strings.HasPrefix(mode.of, "container:") && mode.of != o.UsernsMode {
			return worded(errdefs.ErrInvalidArgument, "conflicting options: --%s %s and --userns %s: they are of different user namespaces", mode.name, mode.of, o.UsernsMode)
		}
	}
	return nil
}
