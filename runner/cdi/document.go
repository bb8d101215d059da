package cdi

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.yaml.in/yaml/v3"

	"github.com/teu-dev/teu/runner/spec"
)

// A document is one file; field names are those of the specification.
type document struct {
	CDIVersion     string         `yaml:"cdiVersion"`
	Kind           string         `yaml:"kind"`
	Annotations    map[string]any `yaml:"annotations"`
	Devices        []device       `yaml:"devices"`
	ContainerEdits edits          `yaml:"containerEdits"`

	path string
}

type device struct {
	Name           string         `yaml:"name"`
	Annotations    map[string]any `yaml:"annotations"`
	ContainerEdits edits          `yaml:"containerEdits"`
}

func readDocument(path string) (*document, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	d, err := parse(data)
	if err != nil {
		return nil, err
	}
	d.path = path
	return d, nil
}

// parse reads a document; JSON is YAML too.
func parse(data []byte) (*document, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes: %w", maxFile, errdefs.ErrInvalidArgument)
	}
	d := &document{}
	if err := yaml.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	major, _, _ := strings.Cut(d.CDIVersion, ".")
	switch {
	case major != "0" && major != "1":
		return nil, fmt.Errorf("cdiVersion %q is not known: %w", d.CDIVersion, errdefs.ErrInvalidArgument)
	case !isKind(d.Kind):
		return nil, fmt.Errorf("kind %q is not VENDOR/CLASS: %w", d.Kind, errdefs.ErrInvalidArgument)
	}
	for _, one := range d.Devices {
		if !isWord(one.Name, "_-.:") {
			return nil, fmt.Errorf("device %q: not a name: %w", one.Name, errdefs.ErrInvalidArgument)
		}
	}
	return d, nil
}

// list adds the devices of the document to those of its directory.
func (d *document) list(here map[string]*found) {
	for _, one := range d.Devices {
		name := d.Kind + "=" + one.Name
		if other := here[name]; other != nil {
			other.clash = d.path
			continue
		}
		here[name] = &found{of: d, annotations: one.Annotations, edits: one.ContainerEdits}
	}
}

// edits are the changes to a container.
type edits struct {
	Env            []string     `yaml:"env"`
	DeviceNodes    []deviceNode `yaml:"deviceNodes"`
	NetDevices     []any        `yaml:"netDevices"`
	Hooks          []hook       `yaml:"hooks"`
	Mounts         []mount      `yaml:"mounts"`
	IntelRDT       any          `yaml:"intelRdt"`
	AdditionalGIDs []uint32     `yaml:"additionalGids"`
}

type deviceNode struct {
	Path        string  `yaml:"path"`
	HostPath    string  `yaml:"hostPath"`
	Permissions string  `yaml:"permissions"`
	FileMode    *uint32 `yaml:"fileMode"`
	UID         *uint32 `yaml:"uid"`
	GID         *uint32 `yaml:"gid"`
	Type        string  `yaml:"type"`
	Major       int64   `yaml:"major"`
	Minor       int64   `yaml:"minor"`
}

type hook struct {
	Name    string   `yaml:"hookName"`
	Path    string   `yaml:"path"`
	Args    []string `yaml:"args"`
	Env     []string `yaml:"env"`
	Timeout *int     `yaml:"timeout"` // seconds
}

type mount struct {
	HostPath      string   `yaml:"hostPath"`
	ContainerPath string   `yaml:"containerPath"`
	Type          string   `yaml:"type"`
	Options       []string `yaml:"options"`
}

// apply adds what they say to o.
func (e edits) apply(o *Edits) error {
	if len(e.NetDevices) > 0 {
		return fmt.Errorf("they need netDevices, which teu does not have for them: %w", errdefs.ErrNotImplemented)
	}
	if e.IntelRDT != nil {
		return fmt.Errorf("they need intelRdt, which teu does not have for them: %w", errdefs.ErrNotImplemented)
	}
	for _, text := range e.Env {
		if name, _, ok := strings.Cut(text, "="); !ok || name == "" {
			return fmt.Errorf("environment variable %q: not NAME=VALUE: %w", text, errdefs.ErrInvalidArgument)
		}
	}
	o.Env = append(o.Env, e.Env...)
	for _, n := range e.DeviceNodes {
		d, err := n.device()
		if err != nil {
			return err
		}
		o.Devices = append(o.Devices, d)
	}
	for _, m := range e.Mounts {
		b, err := m.bind()
		if err != nil {
			return err
		}
		o.Mounts = append(o.Mounts, b)
	}
	for _, h := range e.Hooks {
		if err := h.add(o); err != nil {
			return err
		}
	}
	for _, gid := range e.AdditionalGIDs {
		o.Groups = append(o.Groups, fmt.Sprint(gid))
	}
	return nil
}

// device is the node as --device would ask for it.
func (n deviceNode) device() (spec.Device, error) {
	d := spec.Device{Source: n.HostPath, Target: n.Path, Access: n.Permissions, Mode: n.FileMode, UID: n.UID, GID: n.GID}
	if d.Source == "" {
		d.Source = n.Path
	}
	if d.Access == "" {
		d.Access = "rwm"
	}
	if !filepath.IsAbs(d.Source) || !filepath.IsAbs(d.Target) || strings.Trim(d.Access, "rwm") != "" {
		return d, fmt.Errorf("device node %q with permissions %q: %w", n.Path, n.Permissions, errdefs.ErrInvalidArgument)
	}
	switch n.Type {
	case "":
	case "u", "c", "b", "p":
		if n.Major > 0 || n.Type == "p" { // else the host's node says
			d.Type, d.Major, d.Minor = n.Type, n.Major, n.Minor
		}
		if d.Type == "u" {
			d.Type = "c"
		}
	default:
		return d, fmt.Errorf("device node %q of type %q: %w", n.Path, n.Type, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// add appends the hook to those of its point.
func (h hook) add(o *Edits) error {
	if o.Hooks == nil {
		o.Hooks = &specs.Hooks{}
	}
	list := map[string]*[]specs.Hook{
		//lint:ignore SA1019 the specification has it
		"prestart":        &o.Hooks.Prestart,
		"createRuntime":   &o.Hooks.CreateRuntime,
		"createContainer": &o.Hooks.CreateContainer,
		"startContainer":  &o.Hooks.StartContainer,
		"poststart":       &o.Hooks.Poststart,
		"poststop":        &o.Hooks.Poststop,
	}[h.Name]
	if list == nil || !filepath.IsAbs(h.Path) || h.Timeout != nil && *h.Timeout <= 0 {
		return fmt.Errorf("hook %q with path %q: %w", h.Name, h.Path, errdefs.ErrInvalidArgument)
	}
	*list = append(*list, specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
	return nil
}

// bind is the mount as --mount would ask for it.
func (m mount) bind() (spec.Mount, error) {
	b := spec.Mount{Type: "bind", Source: m.HostPath, Target: m.ContainerPath}
	if m.Type != "" && m.Type != "bind" || !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Target) {
		return b, fmt.Errorf("mount of %q, a %q, at %q: %w", m.HostPath, m.Type, m.ContainerPath, errdefs.ErrInvalidArgument)
	}
	for _, o := range m.Options {
		switch o {
		case "ro":
			b.ReadOnly = true
		case "bind":
			b.NoRecursive = !slices.Contains(m.Options, "rbind")
		case "rbind", "rw":
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			b.Propagation = o
		case "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime":
			b.Options = append(b.Options, o)
		default:
			return b, fmt.Errorf("mount of %s: option %q: %w", m.HostPath, o, errdefs.ErrInvalidArgument)
		}
	}
	return b, nil
}
