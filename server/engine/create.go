package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
	runnernet "github.com/teu-dev/teu/runner/network"
)

// createRequest is the body of POST /containers/create. MacAddress was a field of its own
// until 1.52.
type createRequest struct {
	*container.Config
	MacAddress       string
	HostConfig       *container.HostConfig
	NetworkingConfig *network.NetworkingConfig

	// shallowReadOnly: a read-only bind leaves what is mounted below it as it is, which
	// was so until 1.44.
	shallowReadOnly bool
	// tellEmpty: published ports without a binding have a warning, since 1.52.
	tellEmpty bool
}

func (s *Server) createContainer(w http.ResponseWriter, r *request) error {
	var body createRequest
	if err := r.need(&body); err != nil {
		return err
	}
	if body.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	if body.HostConfig == nil {
		body.HostConfig = &container.HostConfig{}
	}
	if err := olderVersion(&body, r.version); err != nil {
		return err
	}
	o, warnings, err := options(&body)
	if err != nil {
		return err
	}
	if text := r.param("platform"); text != "" && r.version >= 41 {
		if o.Platform, err = parsePlatform(text); err != nil {
			return err
		}
	}
	if len(o.CDIDevices) > 0 && s.InjectCDI != nil {
		if err := s.InjectCDI(&o); err != nil {
			return worded(errdefs.ErrInvalidArgument, "CDI device injection failed: %v", err)
		}
	}
	name := strings.TrimPrefix(r.param("name"), "/")
	if name == "" && r.param("name") != "" {
		return invalid("Invalid container name (/), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	}
	c, err := s.Containers.Create(r.Context(), name, o)
	if errdefs.IsNotFound(err) && !errors.Is(err, runner.ErrPlatform) {
		if s.imageMissing(r, o.Image) {
			return worded(errdefs.ErrNotFound, "No such image: %s", runner.WithTag(listing.Familiar(o.Image)))
		}
		// Clients pull the image at a 404; another thing that is missing must not be one.
		return invalid("%s", message(err))
	}
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: c.ID, Warnings: warnings})
}

// olderVersion gives a request of an older client the meaning it had for it.
func olderVersion(b *createRequest, v version) error {
	if n := b.NetworkingConfig; v < 44 && n != nil && len(n.EndpointsConfig) > 1 {
		names := strings.Join(slices.Sorted(maps.Keys(n.EndpointsConfig)), ", ")
		return invalid("Container cannot be created with multiple network endpoints: %s", names)
	}
	if v < 40 && b.HostConfig.IpcMode == "" {
		b.HostConfig.IpcMode = "shareable"
	}
	if v < 41 {
		if b.HostConfig.CgroupnsMode == "" {
			b.HostConfig.CgroupnsMode = "host"
		}
	}
	b.shallowReadOnly, b.tellEmpty = v < 44, v >= 52
	return nil
}

func (s *Server) imageMissing(r *request, name string) bool {
	_, err := s.Store.Lookup(r.Context(), name)
	return errdefs.IsNotFound(err)
}

// options turns docker's configuration into the core's, the inverse of hostConfig and
// config. What teu does not have is refused, unless it changes nothing.
func options(b *createRequest) (o runner.Options, warnings []string, err error) {
	c, h := b.Config, b.HostConfig
	if c.Image == "" {
		return o, nil, worded(errdefs.ErrInvalidArgument, "config.Image cannot be empty")
	}
	if _, err := reference.ParseAnyReference(c.Image); err != nil {
		return o, nil, invalid("%s", err)
	}
	if c.WorkingDir != "" {
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	o = runner.Options{
		IDFile: h.ContainerIDFile,
		Image:  c.Image, Args: c.Cmd, Entrypoint: c.Entrypoint, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User,
		Groups: h.GroupAdd, Hostname: c.Hostname, Domainname: c.Domainname, Labels: c.Labels, Annotations: h.Annotations,
		TTY: c.Tty, OpenStdin: c.OpenStdin, StdinOnce: c.StdinOnce,
		AttachStdin: c.AttachStdin, AttachStdout: c.AttachStdout, AttachStderr: c.AttachStderr,
		Links: h.Links, VolumesFrom: h.VolumesFrom, PublishAll: h.PublishAllPorts, ExtraHosts: h.ExtraHosts,
		DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions,
		Restart:    keeper.RestartPolicy{Name: string(h.RestartPolicy.Name), MaxRetries: h.RestartPolicy.MaximumRetryCount},
		AutoRemove: h.AutoRemove, StopSignal: c.StopSignal, StopTimeout: c.StopTimeout, Shell: c.Shell,
		Privileged: h.Privileged, CapAdd: h.CapAdd, CapDrop: h.CapDrop, ReadOnly: h.ReadonlyRootfs, ShmSize: h.ShmSize, Sysctls: h.Sysctls,
		Columns: uint16(h.ConsoleSize[1]), Rows: uint16(h.ConsoleSize[0]),
	}
	// An entry point that is there but empty takes the image's away.
	o.ClearEntrypoint = c.Entrypoint != nil && (len(c.Entrypoint) == 0 || len(c.Entrypoint) == 1 && c.Entrypoint[0] == "")
	if o.ClearEntrypoint {
		o.Entrypoint = nil
	}
	o.Init = h.Init != nil && *h.Init
	for _, a := range h.DNS {
		o.DNS = append(o.DNS, a.String())
	}
	restart := h.RestartPolicy
	restart.Name = cmp.Or(restart.Name, container.RestartPolicyDisabled)
	if err := container.ValidateRestartPolicy(restart); err != nil {
		return o, nil, invalid("%s", err)
	}
	if h.AutoRemove && !restart.IsNone() {
		return o, nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	for _, step := range []func(*createRequest, *runner.Options) error{
		refuse, checkEnv, setStop, setNamespaces, setNetworks, setPorts, setMounts, setLog, setSecurity, setDevices, setLimits, setHealth,
	} {
		if err := step(b, &o); err != nil {
			return o, nil, err
		}
	}
	return o, append(o.Warnings(), createWarnings(b)...), nil
}

func createWarnings(b *createRequest) (list []string) {
	var empty []string
	for port, bindings := range b.HostConfig.PortBindings {
		if len(bindings) == 0 {
			empty = append(empty, port.String())
		}
	}
	if slices.Sort(empty); b.tellEmpty && len(empty) > 0 {
		list = append(list, "Following container port(s) have an empty list of port-bindings: "+strings.Join(empty, ", ")+". Such bindings will be discarded in a future version.")
	}
	return list
}

// refuse names what teu does not have rather than leave it out.
func refuse(b *createRequest, _ *runner.Options) error {
	h := b.HostConfig
	for _, f := range []struct {
		set  bool
		what string
	}{
		{h.VolumeDriver != "" && h.VolumeDriver != "local", "HostConfig.VolumeDriver " + h.VolumeDriver},
		{h.Cgroup != "", "HostConfig.Cgroup"},
		{len(h.StorageOpt) > 0, "HostConfig.StorageOpt"},
		{h.CPUCount != 0 || h.CPUPercent != 0 || h.IOMaximumBandwidth != 0 || h.IOMaximumIOps != 0, "a limit of Windows"},
	} {
		if f.set {
			return worded(errdefs.ErrInvalidArgument, "%s is not supported by teu", f.what)
		}
	}
	return cmp.Or(runner.CheckIsolation(string(h.Isolation)), runner.CheckRuntime(h.Runtime))
}

// checkEnv refuses variables without a name.
func checkEnv(b *createRequest, _ *runner.Options) error {
	for _, e := range b.Env {
		if e == "" || e[0] == '=' {
			return invalid("invalid environment variable: %s", e)
		}
	}
	return nil
}

func setStop(b *createRequest, o *runner.Options) error {
	if b.StopSignal == "" {
		return nil
	}
	_, err := runner.ParseSignal(b.StopSignal)
	return err
}

func setNamespaces(b *createRequest, o *runner.Options) error {
	h := b.HostConfig
	o.PIDMode, o.IPCMode, o.UTSMode = string(h.PidMode), string(h.IpcMode), string(h.UTSMode)
	o.CgroupMode, o.CgroupParent, o.UsernsMode = string(h.CgroupnsMode), h.CgroupParent, string(h.UsernsMode)
	return o.CheckNamespaces()
}

// setNetworks: NetworkMode is the network, unless EndpointsConfig names those there are.
func setNetworks(b *createRequest, o *runner.Options) error {
	o.Network = string(b.HostConfig.NetworkMode)
	if o.Network == "default" || o.Network == "" {
		o.Network = "bridge"
	}
	o.MacAddress = b.MacAddress
	if b.NetworkDisabled {
		o.Network = "none"
	}
	if b.NetworkingConfig == nil {
		return nil
	}
	o.EndpointsOnly = o.MacAddress == "" // that is for the network of the mode
	for _, name := range slices.Sorted(maps.Keys(b.NetworkingConfig.EndpointsConfig)) {
		e := b.NetworkingConfig.EndpointsConfig[name]
		end := runner.Endpoint{Network: name, EndpointOptions: endpoint(e)}
		if e == nil {
			return invalid("invalid config for network %s: EndpointsConfig is nil", name)
		}
		if name == "default" {
			end.Network = "bridge"
		}
		o.Endpoints = append(o.Endpoints, end)
	}
	return nil
}

// endpoint turns docker's wishes for a container's place in a network into the core's.
func endpoint(e *network.EndpointSettings) (o runnernet.EndpointOptions) {
	if e == nil { // of POST /networks/{name}/connect
		return o
	}
	o = runnernet.EndpointOptions{Aliases: e.Aliases, Links: e.Links, MAC: e.MacAddress.String(), DriverOpts: e.DriverOpts, GwPriority: e.GwPriority}
	if i := e.IPAMConfig; i != nil {
		o.IPv4, o.IPv6, o.LinkLocalIPs = i.IPv4Address, i.IPv6Address, i.LinkLocalIPs
	}
	return o
}

func setPorts(b *createRequest, o *runner.Options) error {
	for port, bindings := range b.HostConfig.PortBindings {
		if port.Num() == 0 {
			return invalid("invalid port specification: %q", port)
		}
		if p := port.Proto(); p != network.TCP && p != network.UDP && p != network.SCTP {
			return invalid("invalid proto: %s", p)
		}
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		for _, bind := range bindings {
			host, last, err := hostPorts(bind.HostPort)
			if err != nil {
				return err
			}
			p := runnernet.Port{Protocol: string(port.Proto()), HostIP: bind.HostIP, HostPort: host, Container: port.Num()}
			if last != host {
				p.HostEnd = last // the first that is free
			}
			o.Ports = append(o.Ports, p)
		}
	}
	for port := range b.ExposedPorts {
		if port.Num() == 0 {
			return invalid("invalid port specification: %q", port)
		}
		o.Expose = append(o.Expose, port.String())
	}
	slices.Sort(o.Expose)
	return nil
}

// hostPorts reads HostPort: nothing, a number, or a range to choose from.
func hostPorts(text string) (first, last uint16, err error) {
	if text == "" {
		return 0, 0, nil
	}
	first, last, ok := runner.ParseRange(text)
	if !ok {
		return 0, 0, invalid("invalid port specification: %q", text)
	}
	return first, last, nil
}

func setHealth(b *createRequest, o *runner.Options) error {
	h := b.Healthcheck
	if h == nil {
		return nil
	}
	o.Health = &runner.HealthCheck{
		Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
	}
	return nil
}

// parsePlatform reads os/arch[/variant] or one of these, the rest is then the host's; or an
// OCI platform in JSON as 1.48 has it.
func parsePlatform(text string) (*ocispec.Platform, error) {
	if text == "" {
		return nil, nil
	}
	if strings.HasPrefix(text, "{") {
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return nil, invalid("failed to parse platform: %s", err)
		}
		return &p, nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return nil, invalid("%s", err)
	}
	return &p, nil
}
