package runner

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/runner/spec"
)

// Config is the record of a container. It never changes.
type Config struct {
	ID          string
	Created     time.Time
	ImageID     digest.Digest // of the image's config
	Manifest    digest.Digest
	ImageConfig ocispec.ImageConfig
	Options     Options
	Mounts      []MountPoint
	Hostname    string
	ImageHealth *HealthCheck `json:",omitempty"` // HEALTHCHECK of the image
	ImageShell  []string     `json:",omitempty"` // SHELL of the image
	UserIDs     *UserIDs     `json:",omitempty"` // of its own user namespace; nil: it has none
	// ProcessLabel and MountLabel are SELinux's, of its processes and of its files; "" for none.
	ProcessLabel string `json:",omitempty"`
	MountLabel   string `json:",omitempty"`
}

// Options are what somebody asked for. The zero value is docker's default everywhere. Listings
// read the record of every container: what is zero is left out.
type Options struct {
	// Starting is that the maker will start it himself: while he lives, Prune waits for him.
	Starting   bool              `json:"-"`
	Image      string            `json:",omitzero"`
	Platform   *ocispec.Platform `json:",omitempty"`
	Args       []string          `json:",omitzero"`
	Entrypoint []string          `json:",omitzero"`
	IDFile     string            `json:",omitempty"` // where the client has written the ID; only shown
	// ClearEntrypoint drops the image's entry point (--entrypoint "").
	ClearEntrypoint bool              `json:",omitempty"`
	Env             []string          `json:",omitzero"`
	WorkingDir      string            `json:",omitzero"`
	User            string            `json:",omitzero"`
	Groups          []string          `json:",omitzero"`
	Hostname        string            `json:",omitzero"`
	Domainname      string            `json:",omitzero"`
	Labels          map[string]string `json:",omitzero"`
	Annotations     map[string]string `json:",omitzero"`

	TTY                                     bool `json:",omitzero"`
	OpenStdin                               bool `json:",omitzero"`
	StdinOnce                               bool `json:",omitzero"`
	AttachStdin, AttachStdout, AttachStderr bool `json:",omitzero"`

	Mounts  []MountRequest `json:",omitzero"`
	Network string         `json:",omitzero"` // bridge, none, host, container:ID or the network the container is in
	// Endpoints say how the container is in its networks; those beyond Network are joined too. With EndpointsOnly
	// there are no others: Network is then a name for the mode alone.
	Endpoints     []Endpoint     `json:",omitempty"`
	EndpointsOnly bool           `json:",omitempty"`
	Links         []string       `json:",omitempty"` // CONTAINER[:ALIAS], of the default bridge
	LinkIDs       []string       `json:",omitempty"` // of the containers of Links, which may get other names; set by Create
	MacAddress    string         `json:",omitempty"` // in Network
	Ports         []network.Port `json:",omitzero"`
	PublishAll    bool           `json:",omitzero"`
	Expose        []string       `json:",omitempty"` // PORT/PROTOCOL, beside those of the image
	ExtraHosts    []string       `json:",omitzero"`  // name:address
	// VolumesFrom are containers whose volumes and binds are mounted too: CONTAINER[:ro|rw].
	VolumesFrom []string `json:",omitempty"`
	DNS         []string `json:",omitzero"`
	DNSSearch   []string `json:",omitzero"`
	DNSOptions  []string `json:",omitzero"`
	PIDMode     string   `json:",omitzero"` // "", host or container:ID
	IPCMode     string   `json:",omitzero"` // "" or private, shareable, none, host or container:ID
	UTSMode     string   `json:",omitzero"`
	CgroupMode  string   `json:",omitzero"`
	// CgroupParent is the control group that the container's is made in, from the root of the
	// hierarchies: "" for teu's.
	CgroupParent string `json:",omitempty"`
	UsernsMode   string `json:",omitempty"` // "" or host, auto[:OPTIONS] or keep-id

	Restart     keeper.RestartPolicy `json:",omitzero"`
	AutoRemove  bool                 `json:",omitzero"`
	StopSignal  string               `json:",omitzero"`
	StopTimeout *int                 `json:",omitzero"` // seconds
	// Shell runs the commands of health checks that are one string; empty: the image's.
	Shell []string `json:",omitempty"`

	LogDriver  string            `json:",omitzero"`
	LogSize    int64             `json:",omitzero"` // bytes; 0: the default
	LogFiles   int               `json:",omitzero"`
	LogOptions map[string]string `json:",omitempty"` // all that was said, in docker's words

	Privileged      bool     `json:",omitzero"`
	CapAdd, CapDrop []string `json:",omitzero"`
	ReadOnly        bool     `json:",omitzero"`
	Init            bool     `json:",omitzero"`
	NoNewPrivileges bool     `json:",omitzero"`
	Seccomp         string   `json:",omitzero"`
	AppArmor        string   `json:",omitempty"` // name of a profile
	OpenPaths       bool     `json:",omitempty"` // systempaths=unconfined
	WritableCgroups *bool    `json:",omitempty"` // nil: if it is privileged
	// MaskedPaths and ReadonlyPaths stand for docker's lists of them; nil: these.
	MaskedPaths, ReadonlyPaths []string                  `json:",omitzero"`
	Umask                      *uint32                   `json:",omitempty"` // of its processes; nil: 0022
	SecurityOpt                []string                  `json:",omitzero"`
	ShmSize                    int64                     `json:",omitzero"`
	Devices                    []spec.Device             `json:",omitzero"`
	DeviceRules                []specs.LinuxDeviceCgroup `json:",omitzero"`
	CDIDevices                 []string                  `json:",omitempty"` // whose needs are in the other fields, see runner/cdi
	Hooks                      *specs.Hooks              `json:",omitempty"` // of these devices
	Sysctls                    map[string]string         `json:",omitzero"`
	Rlimits                    []specs.POSIXRlimit       `json:",omitzero"`
	OOMScoreAdj                *int                      `json:",omitzero"`
	Resources                  *specs.LinuxResources     `json:",omitzero"`
	DevicePaths                map[string]string         `json:",omitempty"` // as the block devices of Resources were called, by MAJOR:MINOR
	QuotaSaid                  bool                      `json:",omitempty"` // the CPU quota of Resources was asked for as one, not as processors
	Columns, Rows              uint16                    `json:",omitzero"`
	Health                     *HealthCheck              `json:",omitempty"` // nil: the image's
}

// NameDevice notes how a block device of Resources was called.
func (o *Options) NameDevice(major, minor int64, path string) {
	if o.DevicePaths == nil {
		o.DevicePaths = map[string]string{}
	}
	o.DevicePaths[deviceNumbers(major, minor)] = path
}

// DeviceName is what NameDevice has noted; "" is nothing.
func (o *Options) DeviceName(major, minor int64) string {
	return o.DevicePaths[deviceNumbers(major, minor)]
}

func deviceNumbers(major, minor int64) string { return fmt.Sprintf("%d:%d", major, minor) }

// HealthCheck is docker's HealthConfig with native probes and what happens on failure.
// Fields that are zero are the image's, or docker's defaults.
type HealthCheck struct {
	// Test is as in an image: {"NONE"}, {"CMD", arg, ...}, {"CMD-SHELL", text}, or one of
	// teu's own that need nothing in the image: {"HTTP", url}, {"TCP", "host:port"},
	// {"UNIX", path}.
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
	OnFailure     string        `json:",omitempty"` // none, restart, stop or kill
}

// Endpoint is how the container is in the network of a name or ID.
type Endpoint struct {
	Network string
	network.EndpointOptions
}

// MountRequest asks for something to be mounted in the container.
type MountRequest struct {
	Type        string `json:",omitzero"` // bind, volume, tmpfs or image
	Source      string `json:",omitzero"` // path, name of a volume or image, or empty
	Target      string `json:",omitzero"`
	ReadOnly    bool   `json:",omitzero"`
	Propagation string `json:",omitzero"` // bind
	NoRecursive bool   `json:",omitzero"` // bind: not what is mounted below
	// ReadOnlyNonRecursive leaves what is mounted below a read-only bind writable;
	// ReadOnlyForceRecursive fails where it cannot be made read-only.
	ReadOnlyNonRecursive, ReadOnlyForceRecursive bool `json:",omitempty"`

	MakeSource bool              `json:",omitzero"`  // bind: make a missing directory, as -v does
	Chown      bool              `json:",omitempty"` // give what is mounted to the container's user (:U)
	Mode       string            `json:",omitempty"` // the options of -v as they were written, for inspect
	Long       bool              `json:",omitempty"` // asked for as by --mount, not -v or --tmpfs
	NoCopy     bool              `json:",omitzero"`  // volume: do not fill it from the image
	Subpath    string            `json:",omitempty"` // volume, image: mount this directory of it
	Driver     string            `json:",omitempty"` // volume: of one that is made
	DriverOpts map[string]string `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
	Options    []string          `json:",omitzero"` // tmpfs: size=, mode=, uid= and flags
}

// MountPoint is a mount as the container has it, in docker's words.
type MountPoint struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
	MountDetails

	made bool // a volume that the container's own create has made
}

// MountDetails are what a MountPoint has beyond docker's words.
type MountDetails struct {
	Anonymous              bool          `json:",omitempty"`
	NoRecursive            bool          `json:",omitempty"`
	ReadOnlyNonRecursive   bool          `json:",omitempty"`
	ReadOnlyForceRecursive bool          `json:",omitempty"`
	Chown                  bool          `json:",omitempty"`
	Driven                 bool          `json:",omitempty"` // volume: it must be mounted to be used
	Subpath                string        `json:",omitempty"`
	Layers                 []string      `json:",omitempty"` // image
	ImageID                digest.Digest `json:",omitempty"` // image
	Options                []string      `json:",omitempty"`
}

// defaults of logging: docker's own has no limit, which fills disks.
const (
	defaultLogSize  = 10 << 20
	defaultLogFiles = 3
	unreadLogSize   = 1 << 20 // of a log that is only sent
)
