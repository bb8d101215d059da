// Package spec makes runtime specs with docker's defaults from an image's config and a
// user's options.
//
// It decides what a container is; how it is made is runner/oci's business. Of the image it
// reads the config and the passwd and group files, nothing else: labels and annotations of
// an image never change what a container may do.
package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Files reads files of the container's root filesystem; *rootfs.Dir does.
type Files interface {
	ReadFile(path string, limit int64) ([]byte, error)
}

// Options are what the user asked for. The zero value is docker's default for everything.
type Options struct {
	Args       []string // replaces the image's command
	Entrypoint []string // replaces the image's entry point, and its command too
	// ClearEntrypoint drops the image's entry point and command (--entrypoint "").
	ClearEntrypoint bool
	Env             []string // K=V, or K to unset
	WorkingDir      string   // absolute
	User            string   // user[:group], names or numbers; "" is the image's
	Groups          []string // additional groups
	Hostname        string
	Domainname      string
	TTY             bool

	Privileged      bool
	CapAdd, CapDrop []string // with or without CAP_, or ALL
	ReadOnly        bool
	NoNewPrivileges bool
	// Init is a file of the host that becomes the first process and executes the command,
	// or "".
	Init string
	// AppArmor is the name of a profile, "unconfined", or "" for the host's default: none.
	AppArmor string
	// ProcessLabel and MountLabel are SELinux's labels of the process and of all files; "" for none.
	ProcessLabel, MountLabel string
	// OpenPaths leaves the kernel's files unmasked and writable as far as the kernel lets.
	OpenPaths bool
	// WritableCgroups mounts the control groups for writing.
	WritableCgroups bool
	// Seccomp is a profile in docker's JSON form, "unconfined", or "" for the default.
	Seccomp       string
	MaskedPaths   []string // nil: docker's; use an empty list for none
	ReadonlyPaths []string // the same

	Mounts      []Mount
	ShmSize     int64 // bytes, 0: 64 MiB
	Devices     []Device
	DeviceRules []specs.LinuxDeviceCgroup
	Sysctls     map[string]string
	Rlimits     []specs.POSIXRlimit
	OOMScoreAdj *int

	Resources   *specs.LinuxResources
	CgroupsPath string // kept in the spec for who makes the group

	// Namespaces: "" makes one (for NetNS with only a loopback), "host" shares the host's,
	// anything else is the path of one to join.
	NetNS, PIDNS, IPCNS, UTSNS, CgroupNS string
	Shm                                  string // a directory for /dev/shm, "": one of the container's own
	// UIDs and GIDs are the IDs of a user namespace of the container's own; none: it has
	// none. SharedNet says that NetNS does not belong to that namespace.
	UIDs, GIDs []specs.LinuxIDMapping
	UserNS     string // its path, if it is another container's
	SharedNet  bool

	Files Files // the root filesystem; nil: users and groups must be numbers
}

// Mount is a filesystem in the container.
type Mount struct {
	Type     string // "bind" (default), "tmpfs" or "overlay"
	Source   string // path on the host, for bind
	Target   string // absolute path in the container
	ReadOnly bool
	// ReadOnlyNonRecursive leaves what is mounted below a read-only bind as it is,
	// ReadOnlyForceRecursive makes it read-only whatever the propagation.
	ReadOnlyNonRecursive, ReadOnlyForceRecursive bool

	NoRecursive bool     // bind without what is mounted below
	Propagation string   // docker's bind-propagation, "" is rprivate
	Options     []string // further mount options as mount(8) writes them
}

// Device is a device node of the host in the container, or a directory of them.
type Device struct {
	Source, Target string // Target "" is Source
	Access         string // of "rwm"; "" is all

	Mode, UID, GID *uint32 `json:",omitempty"` // nil: those of the host's node

	// Type "c", "b" or "p" says what it is; then there need not be a node of the host.
	Type         string `json:",omitempty"`
	Major, Minor int64  `json:",omitempty"`
}

// maker is a spec in the making.
type maker struct {
	spec     *specs.Spec
	img      ocispec.ImageConfig
	o        Options
	warnings []string
}

// New makes the spec. What this host cannot give and a container can do without comes back
// as warnings. An impossible wish is an errdefs.ErrInvalidArgument, an unknown user or
// device an errdefs.ErrNotFound.
func New(img ocispec.ImageConfig, o Options) (s *specs.Spec, warnings []string, err error) {
	m := &maker{img: img, o: o, spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: o.ReadOnly},
		Process: &specs.Process{Terminal: o.TTY, NoNewPrivileges: o.NoNewPrivileges, ApparmorProfile: o.AppArmor, SelinuxLabel: o.ProcessLabel},
		Linux:   &specs.Linux{CgroupsPath: o.CgroupsPath, MountLabel: o.MountLabel},
	}}
	for _, step := range []func() error{
		m.namespaces, m.command, m.user, m.capabilities, m.limits, m.mounts, m.devices, m.sysctls, m.protection, m.fitUserNamespace,
	} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return m.spec, m.warnings, nil
}

func (m *maker) warn(format string, args ...any) {
	m.warnings = append(m.warnings, fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// namespaces translates the namespaces; the mount namespace is always the container's own.
func (m *maker) namespaces() error {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		wish string
	}{
		{specs.PIDNamespace, m.o.PIDNS}, {specs.NetworkNamespace, m.o.NetNS}, {specs.IPCNamespace, m.o.IPCNS},
		{specs.UTSNamespace, m.o.UTSNS}, {specs.CgroupNamespace, m.o.CgroupNS},
	} {
		switch {
		case ns.wish == "host":
		case ns.wish == "" || path.IsAbs(ns.wish):
			list = append(list, specs.LinuxNamespace{Type: ns.kind, Path: ns.wish})
		default:
			return invalid("%s namespace %q", ns.kind, ns.wish)
		}
	}
	if len(m.o.UIDs) > 0 {
		list = append(list, specs.LinuxNamespace{Type: specs.UserNamespace, Path: m.o.UserNS})
		m.spec.Linux.UIDMappings, m.spec.Linux.GIDMappings = m.o.UIDs, m.o.GIDs
	}
	m.spec.Linux.Namespaces = list
	if m.o.UTSNS == "" {
		m.spec.Hostname, m.spec.Domainname = m.o.Hostname, m.o.Domainname
	}
	return nil
}

// initPath is where docker has it.
const initPath = "/sbin/docker-init"

// command decides arguments and working directory; docker's daemon/create.go, "merge".
func (m *maker) command() error {
	entrypoint, args := m.img.Entrypoint, m.img.Cmd
	if m.o.ClearEntrypoint || len(m.o.Entrypoint) > 0 {
		entrypoint, args = m.o.Entrypoint, nil
	}
	if len(m.o.Args) > 0 {
		args = m.o.Args
	}
	m.spec.Process.Args = slices.Concat(entrypoint, args)
	if len(m.spec.Process.Args) == 0 {
		return invalid("no command specified")
	}
	if m.o.WorkingDir != "" && !path.IsAbs(m.o.WorkingDir) {
		return invalid("the working directory %q is not an absolute path", m.o.WorkingDir)
	}
	if m.o.Init != "" {
		m.spec.Process.Args = append([]string{initPath, "--"}, m.spec.Process.Args...)
	}
	dir := m.img.WorkingDir
	if m.o.WorkingDir != "" {
		dir = m.o.WorkingDir
	}
	m.spec.Process.Cwd = path.Clean("/" + dir)
	for _, s := range slices.Concat(m.spec.Process.Args, []string{dir, m.o.Hostname, m.o.Domainname}) {
		if strings.IndexByte(s, 0) >= 0 {
			return invalid("%q has a NUL", s)
		}
	}
	return nil
}
