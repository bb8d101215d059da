package engine

import (
	"context"
	"io"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// Backend is the core as the API sees it. Its methods are called at every request, by
// several goroutines.
type Backend interface {
	Containers() Containers
	Store() (*cache.Store, error)
	// Registry returns a client of registries with the credentials given, by domain
	// ("docker.io"), or with none.
	Registry(credentials map[string]registry.Credential) *registry.Client
	// RegistryAsking returns one that asks for credentials when a registry wants some; nil: it has none.
	RegistryAsking(ask func(ctx context.Context, domain string) (registry.Credential, error)) *registry.Client
	// Builder returns a builder that pulls with such a client.
	Builder(*registry.Client) (*build.Builder, error)
	// Images returns the images of this machine, pulled and pushed by such a client; nil
	// will do for what needs none.
	Images(*registry.Client) (Images, error)
}

// Containers are the containers of this machine, with their networks and volumes.
type Containers interface {
	containerLife
	containerStreams
	containerFiles
	Networks
	Volumes
}

var _ Containers = (*runner.Engine)(nil)

type containerLife interface {
	List(ctx context.Context) ([]*runner.Container, error)
	Search(ctx context.Context, o runner.SearchOptions) ([]*runner.Container, error)
	Get(ctx context.Context, ref string) (*runner.Container, error)
	Inspect(ctx context.Context, ref string) (*runner.Inspection, error)
	ImageNames(ctx context.Context, list []*runner.Container) []string
	NetworkSettings(list ...*runner.Container) []runner.InspectNetwork
	RootSizes(id string) (written, whole int64)
	Create(ctx context.Context, name string, o runner.Options) (*runner.Container, error)
	Start(ctx context.Context, ref string, o runner.StartOptions) (*runner.Session, error)
	Stop(ctx context.Context, ref string, o runner.StopOptions) error
	Restart(ctx context.Context, ref string, o runner.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Remove(ctx context.Context, ref string, o runner.RemoveOptions) error
	Prune(ctx context.Context, o runner.PruneOptions) (ids []string, size int64, err error)
	Update(ctx context.Context, ref string, o runner.UpdateOptions) (warnings []string, err error)
	Wait(ctx context.Context, ref string) (keeper.ExitStatus, error)
	Top(ctx context.Context, ref string, args []string) (titles []string, rows [][]string, err error)
	Stats(ctx context.Context, ref string) (runner.Stats, error)
	StatsStream(ctx context.Context, ref string, fn func(before, now runner.Stats) error) error
	Events(ctx context.Context, o runner.EventOptions, fn func(event.Event) error) error
	TellPruned(kind string, freed int64)
}

type containerStreams interface {
	Attach(ctx context.Context, ref string, o keeper.AttachOptions) (*runner.Session, error)
	Logs(ctx context.Context, ref string, o runner.LogOptions, stdout, stderr io.Writer) error
	Resize(ctx context.Context, ref string, columns, rows uint16) error
	ExecCreate(ctx context.Context, ref string, o runner.ExecOptions, detachKeys string) (id string, err error)
	ExecStart(ctx context.Context, id string, o runner.ExecStartOptions) (*runner.Exec, error)
	ExecInspect(ctx context.Context, id string) (runner.ExecInfo, error)
	ExecResize(ctx context.Context, id string, columns, rows uint16) error
}

type containerFiles interface {
	StatPath(ctx context.Context, ref, path string) (runner.PathStat, error)
	CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, runner.PathStat, error)
	CopyTo(ctx context.Context, ref, path string, archive io.Reader, o runner.CopyToOptions) error
	Export(ctx context.Context, ref string, w io.Writer) error
	Changes(ctx context.Context, ref string) ([]runner.Change, error)
	Commit(ctx context.Context, ref string, o runner.CommitOptions) (digest.Digest, error)
}

// Networks are the networks of this machine.
type Networks interface {
	CreateNetwork(ctx context.Context, o network.CreateOptions) (network.Network, error)
	Networks(ctx context.Context, filters map[string][]string) ([]network.Network, error)
	InspectNetwork(ctx context.Context, ref string) (*runner.NetworkInspection, error)
	RemoveNetwork(ctx context.Context, ref string) error
	PruneNetworks(ctx context.Context, filters map[string][]string) ([]string, error)
	ConnectNetwork(ctx context.Context, ref, container string, o network.EndpointOptions) error
	DisconnectNetwork(ctx context.Context, ref, container string, force bool) error
}

// Volumes are the volumes of this machine.
type Volumes interface {
	CreateVolume(ctx context.Context, o runner.VolumeOptions) (runner.Volume, error)
	Volume(name string) (runner.Volume, error)
	Volumes(filters map[string][]string) ([]runner.Volume, error)
	VolumeUsers() (map[string][]string, error)
	VolumeSize(name string) int64
	RemoveVolume(ctx context.Context, name string, force bool) error
	PruneVolumes(ctx context.Context, o runner.PruneVolumesOptions) (names []string, size int64, err error)
}

// Images are the images of this machine.
type Images interface {
	All(ctx context.Context) ([]listing.Image, error)
	Usage(ctx context.Context) ([]library.ImageUsage, error)
	Select(ctx context.Context, images []listing.Image, f listing.Filters) ([]listing.Image, error)
	Inspect(ctx context.Context, ref string, o library.InspectOptions) (library.Description, error)
	History(ctx context.Context, ref string, o library.InspectOptions) ([]library.Step, error)
	Pull(ctx context.Context, ref reference.Named, o library.PullOptions) (library.Pulled, error)
	Push(ctx context.Context, ref reference.NamedTagged, o library.PushOptions) (library.Pushed, error)
	Tag(ctx context.Context, source, name string) error
	Remove(ctx context.Context, ref string, o library.RemoveOptions) ([]library.Removal, error)
	Prune(ctx context.Context, o library.PruneOptions) (removed []library.Removal, freed int64, err error)
	Save(ctx context.Context, w io.Writer, refs []string, o library.SaveOptions) error
	Import(ctx context.Context, r io.Reader, o library.ImportOptions) (digest.Digest, error)
	Load(ctx context.Context, r io.Reader, o library.LoadOptions) ([]library.Loaded, error)
}

var _ Images = (*library.Library)(nil)

// images returns the images, with a client of registries that has the credentials.
func (s *Server) images(r *request, credentials map[string]registry.Credential) (Images, error) {
	if credentials == nil {
		return s.Backend.Images(nil)
	}
	return s.Backend.Images(s.Backend.Registry(credentials))
}
