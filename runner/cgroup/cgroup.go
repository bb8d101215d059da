// Package cgroup makes, limits, measures and removes the control groups of containers.
//
// It works on whatever the host has: the unified hierarchy (v2), separate hierarchies
// (v1, also beside a v2 without controllers), or nothing at all, by plain reads and writes
// of files. It never moves a process by itself: a process joins by writing "0" to the
// files of [Group.Joins], or is born in [Group.V2Dir].
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Mode is the kind of hierarchies a host has.
type Mode int

const (
	None Mode = iota
	V1        // separate hierarchies, with or without a v2 hierarchy that has no controllers
	V2
)

// Group is one container's control group: a directory in every hierarchy in use.
type Group struct {
	host *Host
	path string
}

// Stats is what the kernel has counted. A limit of zero means none.
type Stats struct {
	MemoryUsage, MemoryLimit, MemoryPeak, MemoryCache uint64 // bytes
	OOMKills                                          uint64
	Memory                                            map[string]uint64 // all of memory.stat, in the kernel's names
	MemoryFailures                                    uint64            // how often the limit stopped an allocation; version 1 counts it
	CPU, CPUUser, CPUSystem, Throttled                time.Duration
	PerCPU                                            []uint64 // nanoseconds on each processor; version 1 counts them
	Periods, ThrottledPeriods                         uint64   // of the quota
	Pids, PidsLimit                                   uint64
	ReadBytes, WriteBytes                             uint64    // on all devices
	IOBytes, IOs                                      []IOCount // by device; IOs, the numbers of operations, only of version 1
}

// IOCount is what the kernel has counted of one kind of operation on one device: "read" and "write",
// and in version 1 those that it names: "Read", "Write", "Sync", "Async", "Discard", "Total".
type IOCount struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// Create makes the group path ("teu/ID", below the root of every hierarchy) and applies r.
// It is idempotent. What the host cannot do at all comes back as warnings; a limit that
// the kernel refuses is an error, and so is not being able to restrict devices.
func (h *Host) Create(path string, r *specs.LinuxResources) (g *Group, warnings []string, err error) {
	if err := checkPath(path); err != nil {
		return nil, nil, err
	}
	g = h.Open(path)
	if h.mode == None || h.denied {
		return &Group{host: &Host{denied: h.denied}, path: g.path}, h.unlimited(r), nil
	}
	for _, hi := range h.inUse() {
		if err := h.makeDir(hi, path); err != nil {
			return nil, nil, fmt.Errorf("making control group %s: %w", path, err)
		}
	}
	if r == nil {
		return g, nil, nil
	}
	if err := g.check(r); err != nil {
		return g, nil, err
	}
	warnings, err = g.update(g.settings(r), r.Devices)
	return g, warnings, err
}

// Open refers to the group path, whether it exists or not; nothing is read.
func (h *Host) Open(path string) *Group { return &Group{host: h, path: filepath.Clean("/" + path)} }

// checkPath refuses what would lead out of the hierarchies or to their roots.
func checkPath(path string) error {
	clean := filepath.Clean("/" + path)
	if clean == "/" || len(clean) > 3000 || strings.ContainsAny(clean, "\n\x00") || slices.Contains(strings.Split(path, "/"), "..") {
		return fmt.Errorf("control group %q: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Path is the group's path below the root of every hierarchy.
func (g *Group) Path() string { return g.path }

// Procs are the lists of the group's processes, none on a host without cgroups. That of
// systemd's hierarchy is not among them: a systemd in the container moves its processes on.
func (g *Group) Procs() []string {
	var files []string
	for _, hi := range g.host.inUse() {
		if !hi.has(systemdHierarchy) {
			files = append(files, filepath.Join(g.dir(hi), "cgroup.procs"))
		}
	}
	return files
}

// Joins are the files a process of one thread writes "0" to in order to join, none on a
// host without cgroups. With v1 these move a thread: the kernel then need not hold the
// whole machine's forks and exits back, which waits for an RCU grace period of up to 20 ms
// (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
func (g *Group) Joins() []string {
	if g.host.mode != V1 {
		return g.Procs()
	}
	var files []string
	for _, hi := range g.host.inUse() {
		dir := g.dir(hi)
		if hi.has(systemdHierarchy) && unix.Access(dir, unix.F_OK) != nil {
			continue // containers made by older versions of teu have no group there
		}
		files = append(files, filepath.Join(dir, "tasks"))
	}
	return files
}

// V2Dir is the directory to be born in with CLONE_INTO_CGROUP, or "".
func (g *Group) V2Dir() string {
	if g.host.mode != V2 {
		return ""
	}
	return g.dir(g.host.hierarchies[0])
}

func (g *Group) dir(hi Hierarchy) string { return filepath.Join(hi.Mountpoint, g.host.base, g.path) }

// makeDir makes the group in one hierarchy, from the root down, because some limits have
// to be passed on by hand.
func (h *Host) makeDir(hi Hierarchy, path string) error {
	dir := filepath.Join(hi.Mountpoint, h.base)
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if h.mode == V2 {
			if err := delegate(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if hi.has("cpuset") && h.mode == V1 {
			if err := inheritCPUSet(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets the children of a v2 group have the controllers the group has.
// A group with processes of its own refuses (EBUSY); then its children go without, which
// is noticed when a limit is to be set.
func delegate(dir string) error {
	have, err := readFile(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	given, err := readFile(dir, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(have) {
		if !slices.Contains(strings.Fields(given), c) {
			// One by one: one that is refused does not keep the others back.
			_ = writeFile(dir, "cgroup.subtree_control", "+"+c)
		}
	}
	return nil
}

// inheritCPUSet gives a new v1 group the processors and memory nodes of its parent; without
// any, no process can join.
func inheritCPUSet(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := readFile(dir, file)
		if err != nil {
			return err
		}
		if have != "" {
			continue
		}
		v, err := readFile(parent, file)
		if err != nil {
			return err
		}
		if err := writeFile(dir, file, v); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) unlimited(r *specs.LinuxResources) []string {
	switch {
	case r == nil || r.Memory == nil && r.CPU == nil && r.Pids == nil && r.BlockIO == nil:
		return nil
	case h.denied:
		return []string{"no control group is delegated to this user: resource limits have no effect (see docs/rootless.md)"}
	}
	return []string{"this host has no control groups: resource limits have no effect"}
}
