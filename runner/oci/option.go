package oci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are the options of one mount of the spec, sorted by what they change.
type mountOptions struct {
	here        attr // of the mount itself
	below       attr // of the mount and those mounted below it
	bind        bool
	recursive   bool
	propagation []string
	remount     bool
	copyUp      bool     // tmpcopyup
	idmap       string   // "", idmap or ridmap
	idmapText   string   // crun's maps behind "idmap="
	data        []string // for the filesystem
}

// parseOptions reads the options of runtime-spec 1.3, config.md, "Linux mount options".
// What is not an option of mounts goes to the filesystem, as the specification demands.
func parseOptions(options []string) (mountOptions, error) {
	var o mountOptions
	for _, opt := range options {
		if opt == "" { // runc and crun pass over it
			continue
		}
		if len(opt) > 4000 {
			return o, fmt.Errorf("mount option of %d bytes: %w", len(opt), errdefs.ErrInvalidArgument)
		}
		if o.attribute(opt) {
			continue
		}
		switch opt {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable":
			o.propagation = append(o.propagation, opt)
		case "defaults", "async", "loud", "nomand", "noiversion", "nolazytime", "silent", "iversion":
			// The defaults, and two flags of mount(2) that fsconfig(2) does not know.
		case "remount":
			o.remount = true
		case "tmpcopyup":
			o.copyUp = true
		case "idmap", "ridmap":
			o.idmap = opt
		default:
			if key, text, ok := strings.Cut(opt, "="); ok && (key == "idmap" || key == "ridmap") {
				o.idmap, o.idmapText = key, text
				continue
			}
			// also sync, dirsync, mand and lazytime: flags of the filesystem
			o.data = append(o.data, opt)
		}
	}
	return o, nil
}

// isBind says that the mount is one of a tree that is there already.
func (o *mountOptions) isBind(m specs.Mount) bool {
	return o.bind || m.Type == "bind" || m.Type == "rbind"
}

// sets says that the filesystem gets a value for key.
func (o *mountOptions) sets(key string) bool {
	return slices.ContainsFunc(o.data, func(d string) bool { return strings.HasPrefix(d, key+"=") })
}

// shared says that the mount stays, or becomes, a peer of others.
func (o *mountOptions) shared() bool {
	return slices.Contains(o.propagation, "shared") || slices.Contains(o.propagation, "rshared")
}

// attribute applies opt if it is one of the per-mount attributes, alone or recursive.
func (o *mountOptions) attribute(opt string) bool {
	if f, clear, ok := attributeFlag(opt); ok {
		o.here.apply(f, clear)
		return true
	}
	if rest, ok := strings.CutPrefix(opt, "r"); ok {
		if f, clear, ok := attributeFlag(rest); ok {
			o.below.apply(f, clear)
			return true
		}
	}
	return false
}

func (a *attr) apply(flag uint64, clear bool) {
	if flag&unix.MOUNT_ATTR__ATIME != 0 || (flag == 0 && !clear) { // one of several values, relatime is 0
		a.clear |= unix.MOUNT_ATTR__ATIME
		a.set &^= unix.MOUNT_ATTR__ATIME
		a.set |= flag
		return
	}
	if clear {
		a.clear |= flag
		a.set &^= flag
	} else {
		a.set |= flag
		a.clear &^= flag
	}
}

func attributeFlag(opt string) (flag uint64, clear, ok bool) {
	switch opt {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, false, true
	case "rw":
		return unix.MOUNT_ATTR_RDONLY, true, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, false, true
	case "suid":
		return unix.MOUNT_ATTR_NOSUID, true, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, false, true
	case "dev":
		return unix.MOUNT_ATTR_NODEV, true, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, false, true
	case "exec":
		return unix.MOUNT_ATTR_NOEXEC, true, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, false, true
	case "diratime":
		return unix.MOUNT_ATTR_NODIRATIME, true, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, false, true
	case "symfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, true, true
	case "relatime", "atime", "nostrictatime":
		return unix.MOUNT_ATTR_RELATIME, false, true
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, false, true
	case "strictatime":
		return unix.MOUNT_ATTR_STRICTATIME, false, true
	case "norelatime":
		return unix.MOUNT_ATTR_STRICTATIME, false, true
	}
	return 0, false, false
}
