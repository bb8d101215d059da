// Package oci compiles a runtime spec to the program that makes its container.
//
// It implements the Linux part of runtime-spec 1.3 as plan, then act: everything is
// decided here, by reading the spec and the host, and written down as a
// [launch.Program]; whoever starts the program needs no knowledge of specs.
package oci

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// Rootfs is where the container's root comes from: an overlay to be mounted, or a directory.
type Rootfs struct {
	Overlay mount.Overlay
	Path    string // used if not empty
}

// Options are what is not in a spec.
type Options struct {
	// CgroupProcs are the cgroup.procs files the process joins (cgroup.Group.Procs).
	CgroupProcs []string
	// CgroupDir is the cgroup2 directory it is born in where possible (cgroup.Group.V2Dir).
	CgroupDir string
	// Pause makes the program stop before the command, until something writes to the FIFO
	// in slot 3; Start returns at that point. It is "create" without "start".
	Pause bool
}

// Compile makes the program that starts s.Process in a new container. The program wants
// three files: standard input, output and error. With s.Process.Terminal they are not
// used (but must be given) and the child's terminal comes back as launch.Child.Console.
//
// What this host cannot do although the spec asks for it is an errdefs.ErrNotImplemented.
func Compile(s *specs.Spec, r Rootfs, o Options) (*launch.Program, error) {
	return nil, errors.New("not written yet")
}

// PIDFDSlot is the file of an exec program that is a pidfd of the container's init.
const PIDFDSlot = 3

// ExecOptions are what is not in the process of an exec.
type ExecOptions struct {
	CgroupProcs []string
	CgroupDir   string
}

// CompileExec makes the program that starts p in the running container of s. The program
// wants four files: standard input, output, error and, in PIDFDSlot, a pidfd of the
// container's first process.
func CompileExec(s *specs.Spec, p *specs.Process, o ExecOptions) (*launch.Program, error) {
	return nil, errors.New("not written yet")
}
