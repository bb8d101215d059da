// Package inspect tells of containers in the shape of docker's Engine API, for the command line and for the API.
package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner"
)

// Container is docker's container (ContainerInspectResponse): the core's inspection, with
// what is docker's words alone.
type Container struct {
	*runner.Inspection
	State           *stateJSON
	HostConfig      *hostConfigJSON
	Config          *configJSON
	GraphDriver     *storage.DriverData
	NetworkSettings any
	Mounts          []container.MountPoint
}

// stateJSON has docker's health, which a container without a check has not.
type stateJSON struct {
	runner.InspectState
	Health *container.Health `json:",omitempty"`
}

// String is what a template prints of the whole: docker's own fields.
func (s stateJSON) String() string { return fmt.Sprint(s.InspectState) }

// hostConfigJSON has what versions before 1.52 had.
type hostConfigJSON struct {
	*container.HostConfig
	KernelMemoryTCP *int64 `json:",omitempty"`
	KernelMemory    *int64 `json:",omitempty"` // until 1.42

	// IDMappings are podman's: each INSIDE:OUTSIDE:SIZE. Docker has no such thing.
	IDMappings *mappings `json:",omitempty"`
}

func (h hostConfigJSON) String() string { return fmt.Sprint(*h.HostConfig) }

// mappings are the IDs of a container's user namespace.
type mappings struct {
	UIDMap []string `json:"UidMap"`
	GIDMap []string `json:"GidMap"`
}

func idMappings(c *runner.Container) *mappings {
	if c.UserIDs == nil {
		return nil
	}
	return &mappings{UIDMap: mappingTexts(c.UserIDs.UIDs), GIDMap: mappingTexts(c.UserIDs.GIDs)}
}

func mappingTexts(list []specs.LinuxIDMapping) (texts []string) {
	for _, r := range list {
		texts = append(texts, fmt.Sprintf("%d:%d:%d", r.ContainerID, r.HostID, r.Size))
	}
	return texts
}

type configJSON struct {
	*container.Config
	MacAddress string `json:",omitempty"`
	OnBuild    any    `json:"OnBuild,omitempty"`
}

func (c configJSON) String() string { return fmt.Sprint(*c.Config) }

// jsonNull is null even where nothing would be left out.
const jsonNull = jsonText("null")

type jsonText string

// MarshalJSON implements json.Marshaler.
func (j jsonText) MarshalJSON() ([]byte, error) { return []byte(j), nil }

// networkLegacy is what NetworkSettings had until 1.52 and was never used.
type networkLegacy struct {
	runner.InspectNetwork
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []struct{}
	SecondaryIPv6Addresses []struct{}
}

// New is docker's answer for a container, in the form of a version of the API: 51 is 1.51.
func New(in *runner.Inspection, version int) *Container {
	c := in.Container
	out := &Container{
		Inspection: in, State: &stateJSON{InspectState: in.State, Health: health(c)},
		HostConfig: &hostConfigJSON{HostConfig: HostConfig(c), IDMappings: idMappings(c)}, Config: &configJSON{Config: config(c, in)},
		GraphDriver:     &storage.DriverData{Name: in.GraphDriver.Name, Data: in.GraphDriver.Data},
		NetworkSettings: networkSettings(in, version), Mounts: Mounts(c),
	}
	if version < 45 {
		addShortID(in)
	}
	if version < 52 {
		out.HostConfig.KernelMemoryTCP = new(int64)
		out.Config.MacAddress, out.Config.OnBuild = c.Options.MacAddress, jsonNull
	}
	if version < 42 {
		out.HostConfig.KernelMemory = new(int64)
	}
	return out
}

// addShortID tells the names that a container has by itself among its aliases.
func addShortID(in *runner.Inspection) {
	for name, ep := range in.NetworkSettings.Networks {
		if !container.NetworkMode(name).IsUserDefined() {
			continue
		}
		for _, own := range []string{in.ID[:12], in.Config.Hostname} {
			if !slices.Contains(ep.Aliases, own) {
				ep.Aliases = append(slices.Clip(ep.Aliases), own)
			}
		}
		in.NetworkSettings.Networks[name] = ep
	}
}

// SetSizes tells the sizes too, which take long to find; see [runner.Engine.RootSizes].
func (c *Container) SetSizes(written, whole int64) {
	c.SizeRw, c.SizeRootFs = &written, &whole
}

func health(c *runner.Container) *container.Health {
	h := c.State.Health
	if h == nil {
		return nil
	}
	out := &container.Health{Status: container.HealthStatus(runner.HealthName(c.State)), FailingStreak: h.FailingStreak, Log: []*container.HealthcheckResult{}}
	for _, l := range h.Log {
		out.Log = append(out.Log, &container.HealthcheckResult{Start: l.Start, End: l.End, ExitCode: l.ExitCode, Output: l.Output})
	}
	return out
}

// networkSettings leaves out what 1.52 dropped.
func networkSettings(in *runner.Inspection, version int) any {
	n := in.NetworkSettings
	if version < 52 {
		return networkLegacy{InspectNetwork: n}
	}
	return struct {
		SandboxID, SandboxKey string
		Ports, Networks       any
	}{n.SandboxID, n.SandboxKey, n.Ports, n.Networks}
}

// Mounts are what is mounted in a container, without what docker shows in HostConfig only.
func Mounts(c *runner.Container) []container.MountPoint {
	list := []container.MountPoint{}
	for _, m := range c.Mounts {
		if m.Type == "tmpfs" && !slices.ContainsFunc(c.Options.Mounts, func(w runner.MountRequest) bool { return w.Long && path.Clean(w.Target) == m.Destination }) {
			continue // of --tmpfs: docker shows these in HostConfig only
		}
		p := container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver,
			Mode: m.Mode, RW: m.RW, Propagation: mount.Propagation(m.Propagation),
		}
		if m.Type == "tmpfs" {
			p.Source = ""
		}
		list = append(list, p)
	}
	return list
}

// config is the container's part that is portable.
func config(c *runner.Container, in *runner.Inspection) *container.Config {
	k := &in.Config
	out := &container.Config{
		Hostname: k.Hostname, Domainname: k.Domainname, User: k.User,
		AttachStdin: k.AttachStdin, AttachStdout: k.AttachStdout, AttachStderr: k.AttachStderr,
		Tty: k.Tty, OpenStdin: k.OpenStdin, StdinOnce: k.StdinOnce, Env: k.Env, Cmd: k.Cmd, Image: k.Image,
		Volumes: volumesOf(c), WorkingDir: k.WorkingDir, Entrypoint: k.Entrypoint, Labels: k.Labels,
		StopSignal: k.StopSignal, StopTimeout: k.StopTimeout, Healthcheck: healthConfig(k.Healthcheck),
		Shell: k.Shell,
	}
	if out.Env == nil {
		out.Env = []string{}
	}
	for name := range k.ExposedPorts {
		if p, err := network.ParsePort(name); err == nil {
			if out.ExposedPorts == nil {
				out.ExposedPorts = network.PortSet{}
			}
			out.ExposedPorts[p] = struct{}{}
		}
	}
	return out
}

// volumesOf are the anonymous volumes that were asked for, and the image's.
func volumesOf(c *runner.Container) map[string]struct{} {
	var all map[string]struct{}
	add := func(target string) {
		if all == nil {
			all = map[string]struct{}{}
		}
		all[target] = struct{}{}
	}
	for target := range c.ImageConfig.Volumes {
		add(target)
	}
	for _, m := range c.Options.Mounts {
		if m.Type == "volume" && m.Source == "" && !m.Long {
			add(m.Target)
		}
	}
	return all
}

func healthConfig(h *runner.HealthCheck) *container.HealthConfig {
	if h == nil {
		return nil
	}
	return &container.HealthConfig{
		Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
	}
}

// HostConfig is what a container was created with, on its host.
func HostConfig(c *runner.Container) *container.HostConfig {
	o := &c.Options
	h := &container.HostConfig{
		ContainerIDFile: o.IDFile,
		LogConfig:       container.LogConfig{Type: cmp.Or(o.LogDriver, "json-file"), Config: o.LogConfig()},
		// As it was asked for; what became of it is in NetworkSettings.
		NetworkMode:   container.NetworkMode(cmp.Or(o.Network, "bridge")),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(cmp.Or(o.Restart.Name, "no")), MaximumRetryCount: o.Restart.MaxRetries},
		AutoRemove:    o.AutoRemove, VolumesFrom: o.VolumesFrom, Annotations: o.Annotations,
		ConsoleSize: [2]uint{uint(o.Rows), uint(o.Columns)},
		CapAdd:      o.CapAdd, CapDrop: o.CapDrop, CgroupnsMode: container.CgroupnsMode(cmp.Or(o.CgroupMode, "private")),
		DNS: []netip.Addr{}, DNSOptions: List(o.DNSOptions), DNSSearch: List(o.DNSSearch), ExtraHosts: o.ExtraHosts, GroupAdd: o.Groups,
		IpcMode: container.IpcMode(cmp.Or(o.IPCMode, "private")), Links: linksOf(c), PidMode: container.PidMode(o.PIDMode), UsernsMode: container.UsernsMode(o.UsernsMode),
		UTSMode: container.UTSMode(o.UTSMode), Privileged: o.Privileged, PublishAllPorts: o.PublishAll,
		ReadonlyRootfs: o.ReadOnly, SecurityOpt: o.SecurityOpt, ShmSize: o.ShmSize, Sysctls: o.Sysctls, Runtime: "teu",
		PortBindings: portBindings(o),
	}
	if o.Privileged || o.PIDMode == "host" || o.IPCMode == "host" {
		if !slices.ContainsFunc(o.SecurityOpt, func(s string) bool { return strings.HasPrefix(s, "label=") }) {
			h.SecurityOpt = append(slices.Clone(o.SecurityOpt), "label=disable") // as dockerd has it, with SELinux or without
		}
	}
	h.CgroupParent = o.CgroupParent
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if o.Init {
		h.Init = &o.Init
	}
	if o.OOMScoreAdj != nil {
		h.OomScoreAdj = *o.OOMScoreAdj
	}
	for _, text := range o.DNS {
		if a, err := netip.ParseAddr(text); err == nil {
			h.DNS = append(h.DNS, a)
		}
	}
	h.Umask = o.Umask
	h.MaskedPaths, h.ReadonlyPaths = o.MaskedPaths, o.ReadonlyPaths
	switch {
	case o.Privileged:
	case o.OpenPaths:
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
	default:
		if h.MaskedPaths == nil {
			h.MaskedPaths = maskedPaths()
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = readonlyPaths()
		}
	}
	h.OomKillDisable = new(bool)
	hostMounts(h, o.Mounts)
	hostLimits(h, o)
	return h
}

// List is list as docker shows it: [] rather than null.
func List(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func portBindings(o *runner.Options) network.PortMap {
	m := network.PortMap{}
	for _, p := range o.Ports {
		port, ok := network.PortFrom(p.Container, network.IPProtocol(p.Protocol))
		if !ok {
			continue
		}
		b := network.PortBinding{HostIP: p.HostIP}
		if p.HostPort != 0 {
			b.HostPort = strconv.Itoa(int(p.HostPort))
		}
		if p.HostEnd > p.HostPort {
			b.HostPort += "-" + strconv.Itoa(int(p.HostEnd))
		}
		m[port] = append(m[port], b)
	}
	return m
}

// hostMounts sorts the mounts back: binds and named volumes of -v, the rest.
func hostMounts(h *container.HostConfig, mounts []runner.MountRequest) {
	for _, m := range mounts {
		switch {
		case m.Long:
			h.Mounts = append(h.Mounts, dockerMount(m))
		case m.Type == "tmpfs":
			if h.Tmpfs == nil {
				h.Tmpfs = map[string]string{}
			}
			h.Tmpfs[m.Target] = strings.Join(m.Options, ",")
		case m.Type == "bind" && m.MakeSource, m.Type == "volume" && m.Source != "" && m.Driver == "" && m.Subpath == "" && len(m.Labels) == 0:
			h.Binds = append(h.Binds, bindText(m))
		case m.Type == "volume" && m.Source == "":
		default:
			h.Mounts = append(h.Mounts, dockerMount(m))
		}
	}
}

func bindText(m runner.MountRequest) string {
	text := m.Source + ":" + m.Target
	switch {
	case m.Mode != "":
		text += ":" + m.Mode
	case m.ReadOnly:
		text += ":ro"
	}
	return text
}

func dockerMount(m runner.MountRequest) mount.Mount {
	out := mount.Mount{Type: mount.Type(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case "bind":
		b := mount.BindOptions{
			Propagation: mount.Propagation(m.Propagation), NonRecursive: m.NoRecursive,
			ReadOnlyNonRecursive: m.ReadOnlyNonRecursive, ReadOnlyForceRecursive: m.ReadOnlyForceRecursive, CreateMountpoint: m.MakeSource,
		}
		if b != (mount.BindOptions{}) {
			out.BindOptions = &b
		}
	case "tmpfs":
		out.TmpfsOptions = tmpfsOptions(m.Options)
	case "volume":
		if !m.NoCopy && len(m.Labels) == 0 && m.Subpath == "" && m.Driver == "" && len(m.DriverOpts) == 0 {
			break
		}
		out.VolumeOptions = &mount.VolumeOptions{NoCopy: m.NoCopy, Labels: m.Labels, Subpath: m.Subpath}
		if m.Driver != "" || len(m.DriverOpts) > 0 {
			out.VolumeOptions.DriverConfig = &mount.Driver{Name: m.Driver, Options: m.DriverOpts}
		}
	case "image":
		if m.Subpath != "" {
			out.ImageOptions = &mount.ImageOptions{Subpath: m.Subpath}
		}
	}
	return out
}

// tmpfsOptions is the inverse of what mountRequest makes of them.
func tmpfsOptions(options []string) *mount.TmpfsOptions {
	if len(options) == 0 {
		return nil
	}
	t := &mount.TmpfsOptions{}
	for _, text := range options {
		key, value, _ := strings.Cut(text, "=")
		n, bytes := strconv.ParseInt(value, 10, 64)
		mode, octal := strconv.ParseUint(value, 8, 32)
		switch {
		case key == "size" && bytes == nil:
			t.SizeBytes = n
		case key == "mode" && octal == nil:
			t.Mode = os.FileMode(mode)
		case value == "":
			t.Options = append(t.Options, []string{key})
		default:
			t.Options = append(t.Options, []string{key, value})
		}
	}
	return t
}

// linksOf are a container's links in the form /OTHER:/CONTAINER/ALIAS.
func linksOf(c *runner.Container) (list []string) {
	for _, text := range c.Options.Links {
		other, alias, ok := strings.Cut(text, ":")
		if !ok {
			alias = other
		}
		list = append(list, "/"+strings.TrimPrefix(other, "/")+":/"+c.Name+"/"+alias)
	}
	return list
}

// maskedPaths and readonlyPaths are the default ones, which containers are shown with.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
