// Package cdi gives containers the devices that their vendors describe in files: the Container
// Device Interface (SPEC.md of the CNCF's container-device-interface, version 1.1).
//
// A container is told what a device needs when it is created, so that it can be started without
// these files. Hooks, which a vendor wants to have executed on the host, are refused, as is what
// changes network devices and the cache allocation of processors.
package cdi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"go.yaml.in/yaml/v3"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/spec"
)

// Limits of what is read of a directory.
const (
	maxFile  = 1 << 20 // bytes
	maxFiles = 1000
)

// DefaultDirs are the directories of every engine; what a later one says of a device counts.
func DefaultDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// IsName says whether s is VENDOR/CLASS=NAME.
func IsName(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	return ok && isKind(kind) && isWord(name, "_-.:")
}

func isKind(s string) bool {
	vendor, class, ok := strings.Cut(s, "/")
	return ok && isWord(vendor, "_-.") && isWord(class, "_-") && !isDigit(vendor[0]) && !isDigit(class[0])
}

// isWord says whether s is letters, digits and, in between, characters of joints.
func isWord(s, joints string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && strings.Trim(s, letters+joints) == "" &&
		strings.IndexByte(joints, s[0]) < 0 && strings.IndexByte(joints, s[len(s)-1]) < 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Inject adds to o what the named devices need, as the files of dirs say. A device that no file
// defines, or two of one directory, is an errdefs.ErrInvalidArgument.
func Inject(o *runner.Options, dirs, names []string) error {
	known, err := load(dirs)
	if err != nil {
		return fmt.Errorf("CDI: %w", err)
	}
	var all []edits
	var whole []*document // whose edits for all devices are in already
	for _, name := range names {
		d, ok := known.devices[name]
		switch {
		case ok && d.clash != "":
			return fmt.Errorf("CDI device %s is defined twice, in %s and %s: %w", name, d.of.path, d.clash, errdefs.ErrInvalidArgument)
		case !ok:
			return errors.Join(fmt.Errorf("unresolvable CDI devices %s: no file in %s defines it: %w",
				name, strings.Join(dirs, ", "), errdefs.ErrInvalidArgument), known.damaged)
		}
		if !slices.Contains(whole, d.of) {
			whole = append(whole, d.of)
			all = append(all, d.of.ContainerEdits)
		}
		all = append(all, d.edits)
	}
	for _, e := range all {
		if err := e.apply(o); err != nil {
			return fmt.Errorf("CDI devices %s: %w", strings.Join(names, ", "), err)
		}
	}
	o.CDIDevices = names
	return nil
}

// found is a device of a document.
type found struct {
	of    *document
	edits edits
	clash string // path of another document of the same directory that defines it
}

// registry is what all directories say.
type registry struct {
	devices map[string]*found
	damaged error // of files that cannot be read; they are nobody's problem until a device is missing
}

func load(dirs []string) (*registry, error) {
	all := &registry{devices: map[string]*found{}}
	for _, dir := range dirs {
		paths, err := files(dir)
		if err != nil {
			return nil, err
		}
		here := map[string]*found{}
		for _, path := range paths {
			d, err := readDocument(path)
			if err != nil {
				all.damaged = errors.Join(all.damaged, fmt.Errorf("%s: %w", path, err))
				continue
			}
			d.list(here)
		}
		for name, d := range here {
			all.devices[name] = d
		}
	}
	return all, nil
}

// files returns the documents of dir, sorted.
func files(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".json" || ext == ".yaml" {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	if len(paths) > maxFiles {
		return nil, fmt.Errorf("%s has more than %d files: %w", dir, maxFiles, errdefs.ErrInvalidArgument)
	}
	return paths, err
}

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
		here[name] = &found{of: d, edits: one.ContainerEdits}
	}
}

// edits are the changes to a container.
type edits struct {
	Env            []string     `yaml:"env"`
	DeviceNodes    []deviceNode `yaml:"deviceNodes"`
	NetDevices     []any        `yaml:"netDevices"`
	Hooks          []any        `yaml:"hooks"`
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
}

type mount struct {
	HostPath      string   `yaml:"hostPath"`
	ContainerPath string   `yaml:"containerPath"`
	Type          string   `yaml:"type"`
	Options       []string `yaml:"options"`
}

func (e edits) apply(o *runner.Options) error {
	for what, n := range map[string]int{"hooks": len(e.Hooks), "netDevices": len(e.NetDevices)} {
		if n > 0 {
			return fmt.Errorf("they need %s, which teu does not have for them: %w", what, errdefs.ErrNotImplemented)
		}
	}
	if e.IntelRDT != nil {
		return fmt.Errorf("they need intelRdt, which teu does not have for them: %w", errdefs.ErrNotImplemented)
	}
	for _, text := range e.Env {
		if name, _, ok := strings.Cut(text, "="); !ok || name == "" {
			return fmt.Errorf("environment variable %q: not NAME=VALUE: %w", text, errdefs.ErrInvalidArgument)
		}
	}
	o.Env = append(slices.Clip(o.Env), e.Env...)
	for _, n := range e.DeviceNodes {
		d, err := n.device()
		if err != nil {
			return err
		}
		o.Devices = append(o.Devices, d)
	}
	for _, m := range e.Mounts {
		r, err := m.request()
		if err != nil {
			return err
		}
		o.Mounts = append(o.Mounts, r)
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
	return d, nil
}

// request is the mount as --mount would ask for it.
func (m mount) request() (runner.MountRequest, error) {
	r := runner.MountRequest{Type: "bind", Source: m.HostPath, Target: m.ContainerPath, Long: true}
	if m.Type != "" && m.Type != "bind" || !filepath.IsAbs(r.Source) || !filepath.IsAbs(r.Target) {
		return r, fmt.Errorf("mount of %q, a %q, at %q: %w", m.HostPath, m.Type, m.ContainerPath, errdefs.ErrInvalidArgument)
	}
	for _, o := range m.Options {
		switch o {
		case "ro":
			r.ReadOnly = true
		case "bind":
			r.NoRecursive = !slices.Contains(m.Options, "rbind")
		case "rbind", "rw":
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			r.Propagation = o
		case "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime":
			r.Options = append(r.Options, o)
		default:
			return r, fmt.Errorf("mount of %s: option %q: %w", m.HostPath, o, errdefs.ErrInvalidArgument)
		}
	}
	return r, nil
}
