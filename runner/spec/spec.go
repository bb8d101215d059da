// Package spec makes runtime specs with docker's defaults from an image's config and a
// user's options.
//
// It decides what a container is; how it is made is runner/oci's business. It reads the
// image's passwd and group files and nothing else, and changes nothing.
package spec

import (
	"errors"

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
	// ClearEntrypoint drops the image's entry point (--entrypoint "").
	ClearEntrypoint bool
	Env             []string // K=V, or K to unset
	WorkingDir      string
	User            string   // user[:group], names or numbers; "" is the image's
	Groups          []string // additional groups
	Hostname        string
	Domainname      string
	TTY             bool

	Privileged      bool
	CapAdd, CapDrop []string
	ReadOnly        bool
	NoNewPrivileges bool
	// Seccomp is a profile in docker's JSON form, "unconfined", or "" for the default.
	Seccomp       string
	MaskedPaths   []string // nil: docker's; use an empty list for none
	ReadonlyPaths []string

	Mounts      []Mount
	ShmSize     int64 // bytes, 0: 64 MiB
	Devices     []Device
	DeviceRules []specs.LinuxDeviceCgroup
	Sysctls     map[string]string
	Rlimits     []specs.POSIXRlimit
	OOMScoreAdj *int

	Resources   *specs.LinuxResources
	CgroupsPath string // relative to the host's root group, "" to leave it to the caller

	// Namespaces to join or share instead of making new ones.
	NetNS    string // path; "" makes one with only a loopback, "host" shares
	PIDNS    string
	IPCNS    string
	UTSNS    string
	CgroupNS string

	Files Files // the root filesystem; nil: users and groups must be numbers
}

// Mount is a filesystem in the container.
type Mount struct {
	Type        string // "bind" (default) or "tmpfs"
	Source      string // path on the host, for bind
	Target      string // absolute path in the container
	ReadOnly    bool
	NoRecursive bool     // bind without what is mounted below
	Propagation string   // docker's bind-propagation, "" is rprivate
	Options     []string // further mount options as mount(8) writes them
}

// Device is a device node of the host in the container.
type Device struct {
	Source, Target string
	Access         string // of "rwm"; "" is all
}

// New makes the spec. Warnings (a limit that had to be clamped) are in the result's
// second value. An impossible wish is an errdefs.ErrInvalidArgument, an unknown user an
// errdefs.ErrNotFound.
func New(img ocispec.ImageConfig, o Options) (*specs.Spec, []string, error) {
	return nil, nil, errors.New("not written yet")
}

// ExecOptions are what the user of exec asked for.
type ExecOptions struct {
	Args       []string
	Env        []string
	WorkingDir string // "" is the container's
	User       string // "" is the container's
	TTY        bool
	Privileged bool
	Files      Files // the container's root filesystem
}

// NewExec makes the process of an exec into a container of the given spec, by docker's rules.
func NewExec(s *specs.Spec, o ExecOptions) (*specs.Process, error) {
	return nil, errors.New("not written yet")
}
