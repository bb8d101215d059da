package runner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/runner/spec"
)

// Inspection is a container in the shape of docker's API (1.51, ContainerInspectResponse), but for what it was created
// with, which is in [Container.Options].
type Inspection struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           InspectState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	GraphDriver     InspectDriver
	SizeRw          *int64 `json:",omitempty"` // see [Engine.RootSizes]
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []MountPoint
	Config          InspectConfig
	NetworkSettings InspectNetwork

	Container *Container `json:"-"` // whom it is about
}

// InspectState is State of an Inspection.
type InspectState struct {
	Status                                       keeper.Status
	Running, Paused, Restarting, OOMKilled, Dead bool
	Pid, ExitCode                                int
	Error                                        string
	StartedAt, FinishedAt                        string
	Health                                       *keeper.Health `json:",omitempty"`
}

// InspectDriver is GraphDriver of an Inspection.
type InspectDriver struct {
	Name string
	Data map[string]string
}

// InspectConfig is Config of an Inspection.
type InspectConfig struct {
	Hostname, Domainname, User              string
	AttachStdin, AttachStdout, AttachStderr bool
	ExposedPorts                            map[string]struct{} `json:",omitempty"`
	Tty, OpenStdin, StdinOnce               bool
	Env, Cmd                                []string
	Image                                   string
	Volumes                                 map[string]struct{}
	WorkingDir                              string
	Entrypoint                              []string
	Labels                                  map[string]string
	OnBuild                                 []string
	Healthcheck                             *HealthCheck `json:",omitempty"`
	StopSignal                              string       `json:",omitempty"`
	StopTimeout                             *int         `json:",omitempty"`
	Shell                                   []string     `json:",omitempty"`
}

// PortBinding is where a port is published.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// Inspect tells everything about a container.
func (e *Engine) Inspect(ctx context.Context, ref string) (*Inspection, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(c.Options.Links) > 0 {
		shown := *c // a server's own is everybody's
		shown.Options.Links = e.currentLinks(ctx, c)
		c = &shown
	}
	argv := c.command()
	in := &Inspection{
		Container: c,
		ID:        c.ID, Created: c.Created.Format(time.RFC3339Nano), State: inspectState(c.State),
		Image: c.ImageID.String(), ResolvConfPath: e.dir(c.ID) + "/resolv.conf",
		HostnamePath: e.dir(c.ID) + "/hostname", HostsPath: e.dir(c.ID) + "/hosts",
		Name: "/" + c.Name, RestartCount: c.State.RestartCount, Driver: "overlayfs", Platform: "linux",
		Mounts: inspectMounts(c.Mounts), Args: []string{},
		Config:      c.inspectConfig(),
		GraphDriver: InspectDriver{Name: "overlayfs"}, AppArmorProfile: c.Options.appArmor(),
		ProcessLabel: c.ProcessLabel, MountLabel: c.MountLabel,
	}
	if runs(c.State) {
		in.ExecIDs = e.execIDs(c.ID)
	}
	if d := c.Options.LogDriver; d == "" || d == "json-file" { // docker tells of no other file
		in.LogPath = e.logFile(c.ID)
	}
	if len(argv) > 0 {
		in.Path, in.Args = argv[0], argv[1:]
	}
	if sn, err := e.snapshot(c.ID); err == nil {
		in.GraphDriver.Data = map[string]string{
			"LowerDir": strings.Join(sn.Lowers, ":"), "UpperDir": sn.Upper, "WorkDir": sn.Work,
		}
	}
	in.NetworkSettings = e.NetworkSettings(c)[0]
	return in, nil
}

// inspectMounts has docker's words only. A tmpfs is none of docker's Mounts.
func inspectMounts(points []MountPoint) []MountPoint {
	list := []MountPoint{}
	for _, p := range points {
		if p.MountDetails = (MountDetails{}); p.Type != "tmpfs" {
			list = append(list, p)
		}
	}
	return list
}

// command is what the container executes: its entry point and arguments.
func (c *Container) command() []string {
	o := &c.Options
	entrypoint, args := c.ImageConfig.Entrypoint, c.ImageConfig.Cmd
	if len(o.Entrypoint) > 0 || o.ClearEntrypoint {
		entrypoint, args = o.Entrypoint, nil
	}
	if len(o.Args) > 0 {
		args = o.Args
	}
	return slices.Concat(entrypoint, args)
}

// Command is the command line as listings show it.
func (c *Container) Command() string { return strings.Join(c.command(), " ") }

// Labels are the image's labels and the container's own.
func (c *Container) Labels() map[string]string {
	all := map[string]string{}
	maps.Copy(all, c.ImageConfig.Labels)
	maps.Copy(all, c.Options.Labels)
	return all
}

func inspectState(s keeper.State) InspectState {
	in := InspectState{
		Status: s.Status, Running: s.Status.GoesOn(),
		Paused: s.Status == keeper.Paused, Restarting: s.Status == keeper.Restarting, OOMKilled: s.OOMKilled,
		Dead: s.Status == keeper.Dead, ExitCode: s.ExitCode, Error: s.Error,
		StartedAt: s.StartedAt.Format(time.RFC3339Nano), FinishedAt: s.FinishedAt.Format(time.RFC3339Nano),
	}
	if runs(s) {
		in.Pid = s.Init.PID
	}
	in.Health = s.Health
	return in
}

func (c *Container) inspectConfig() InspectConfig {
	o, img := &c.Options, &c.ImageConfig
	in := InspectConfig{
		Hostname: c.Hostname, Domainname: o.Domainname, User: cmp.Or(o.User, img.User),
		AttachStdin: o.AttachStdin, AttachStdout: o.AttachStdout, AttachStderr: o.AttachStderr,
		Tty: o.TTY, OpenStdin: o.OpenStdin, StdinOnce: o.StdinOnce,
		Env: spec.MergeEnv(o.Env, img.Env), Cmd: img.Cmd, Image: o.Image, Volumes: img.Volumes,
		WorkingDir: cmp.Or(o.WorkingDir, img.WorkingDir), Entrypoint: img.Entrypoint, Labels: c.Labels(),
		StopSignal: cmp.Or(o.StopSignal, img.StopSignal), StopTimeout: o.StopTimeout, ExposedPorts: map[string]struct{}{},
		Healthcheck: c.health(), Shell: c.givenShell(),
	}
	if len(o.Entrypoint) > 0 || o.ClearEntrypoint {
		in.Entrypoint, in.Cmd = o.Entrypoint, nil
	}
	if len(o.Args) > 0 {
		in.Cmd = o.Args
	}
	maps.Copy(in.ExposedPorts, img.ExposedPorts)
	for _, p := range o.Ports {
		in.ExposedPorts[portName(p)] = struct{}{}
	}
	for _, p := range o.Expose {
		in.ExposedPorts[p] = struct{}{}
	}
	return in
}

func portName(p network.Port) string { return fmt.Sprintf("%d/%s", p.Container, p.Protocol) }
