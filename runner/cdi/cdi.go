// Package cdi gives containers the devices that their vendors describe in files: the Container
// Device Interface (SPEC.md of the CNCF's container-device-interface, version 1.1).
//
// A container is told what a device needs when it is created, so that it can be started without
// these files; a step of a build when it runs. What changes network devices and the cache
// allocation of processors is refused.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/spec"
)

// Limits of what is read of a directory.
const (
	maxFile  = 1 << 20 // bytes
	maxFiles = 1000
)

// DefaultDirs are the directories of every engine; what a later one says of a device counts.
func DefaultDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

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

// A Device is what a file defines.
type Device struct {
	Name string // VENDOR/CLASS=NAME
	// Annotations are the device's own over those of its file.
	Annotations map[string]string
}

// Edits are what a container needs for the use of devices.
type Edits struct {
	Env     []string // NAME=VALUE
	Devices []spec.Device
	Mounts  []spec.Mount // binds of paths of the host
	Groups  []string     // numbers, additional
	Hooks   *specs.Hooks // nil: none
}

// Edits returns what the named devices need. A device that no file defines, or two of one
// directory, is an errdefs.ErrInvalidArgument.
func (r *Registry) Edits(names []string) (Edits, error) {
	var all []edits
	var whole []*document // whose edits for all devices are in already
	for _, name := range names {
		d, ok := r.devices[name]
		switch {
		case ok && d.clash != "":
			return Edits{}, fmt.Errorf("CDI device %s is defined twice, in %s and %s: %w", name, d.of.path, d.clash, errdefs.ErrInvalidArgument)
		case !ok:
			return Edits{}, errors.Join(fmt.Errorf("unresolvable CDI devices %s: no file in %s defines it: %w",
				name, strings.Join(r.dirs, ", "), errdefs.ErrInvalidArgument), r.damaged)
		}
		if !slices.Contains(whole, d.of) {
			whole = append(whole, d.of)
			all = append(all, d.of.ContainerEdits)
		}
		all = append(all, d.edits)
	}
	var out Edits
	for _, e := range all {
		if err := e.apply(&out); err != nil {
			return Edits{}, fmt.Errorf("CDI devices %s: %w", strings.Join(names, ", "), err)
		}
	}
	return out, nil
}

// Devices lists the devices that can be used, by name.
func (r *Registry) Devices() []Device {
	var list []Device
	for _, name := range slices.Sorted(maps.Keys(r.devices)) {
		d := r.devices[name]
		if d.clash != "" {
			continue
		}
		notes := map[string]string{}
		for _, from := range []map[string]any{d.of.Annotations, d.annotations} {
			for k, v := range from {
				notes[k] = fmt.Sprint(v) // the text that YAML takes for a truth or a number
			}
		}
		list = append(list, Device{Name: name, Annotations: notes})
	}
	return list
}

// found is a device of a document.
type found struct {
	of          *document
	annotations map[string]any
	edits       edits
	clash       string // path of another document of the same directory that defines it
}

// A Registry is what all directories say.
type Registry struct {
	dirs    []string
	devices map[string]*found
	damaged error // of files that cannot be read; they are nobody's problem until a device is missing
}

// Load reads the directories; what a later one says of a device counts. One that is not there is empty.
func Load(dirs []string) (*Registry, error) {
	all := &Registry{dirs: dirs, devices: map[string]*found{}}
	for _, dir := range dirs {
		paths, err := files(dir)
		if err != nil {
			return nil, fmt.Errorf("CDI: %w", err)
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
