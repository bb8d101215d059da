// Package cgroup makes, limits, measures and removes the control groups of containers.
//
// It works on whatever the host has: the unified hierarchy (v2), separate hierarchies
// (v1, also beside an empty v2), or nothing at all, by plain file reads and writes. It
// never moves a process by itself: a process joins by writing "0" to [Group.Procs].
package cgroup

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var errTODO = errors.New("not written yet")

// Mode is the kind of hierarchies a host has.
type Mode int

const (
	None Mode = iota
	V1        // separate hierarchies, with or without a v2 hierarchy that has no controllers
	V2
)

// Host is where the hierarchies of this host are mounted.
type Host struct {
	mode Mode
}

// Detect finds the hierarchies this process can see. A host without any is no error.
func Detect() (*Host, error) { return nil, errTODO }

// Mode returns the kind of hierarchies.
func (h *Host) Mode() Mode { return h.mode }

// Group is one container's control group: a directory in every hierarchy in use.
type Group struct{}

// Create makes the group named path ("teu/ID", relative to the group this process is in
// the root of) and applies r. It is idempotent. What the host cannot do is returned as
// warnings; a limit that was asked for and that the kernel refuses is an error.
func (h *Host) Create(path string, r *specs.LinuxResources) (g *Group, warnings []string, err error) {
	return nil, nil, errTODO
}

// Open refers to a group that exists or not; nothing is read.
func (h *Host) Open(path string) *Group { return nil }

// Procs are the files a process writes "0" to in order to join, none on a host without cgroups.
func (g *Group) Procs() []string { return nil }

// V2Dir is the directory to be born in with CLONE_INTO_CGROUP, or "".
func (g *Group) V2Dir() string { return "" }

// Update applies r to the existing group.
func (g *Group) Update(r *specs.LinuxResources) (warnings []string, err error) { return nil, errTODO }

// Stats is what the kernel has counted. A zero limit means none.
type Stats struct {
	MemoryUsage, MemoryLimit, MemoryPeak, MemoryCache uint64 // bytes
	OOMKills                                          uint64
	CPU, CPUUser, CPUSystem                           time.Duration
	Throttled                                         time.Duration
	Pids, PidsLimit                                   uint64
	ReadBytes, WriteBytes                             uint64
}

// Stats reads the counters. A group that is gone is an errdefs.ErrNotFound.
func (g *Group) Stats() (Stats, error) { return Stats{}, errTODO }

// Pids are the processes of the group and of the groups below it.
func (g *Group) Pids() ([]int, error) { return nil, errTODO }

// Freeze stops or continues all processes.
func (g *Group) Freeze(ctx context.Context, frozen bool) error { return errTODO }

// Kill sends SIGKILL to every process until none is left or ctx ends.
func (g *Group) Kill(ctx context.Context) error { return errTODO }

// Remove removes the group and the groups below it. Processes that are just ending are
// waited for until ctx ends. A group that does not exist is no error.
func (g *Group) Remove(ctx context.Context) error { return errTODO }
