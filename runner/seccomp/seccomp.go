// Package seccomp compiles the seccomp section of a runtime spec to a BPF filter.
//
// It is a compiler only: it loads nothing and reads nothing of the machine it runs on,
// except that docker's default profile depends on the kernel's version. It replaces
// libseccomp, which needs C, and is to mean what runc with libseccomp means, in these
// words:
//
//   - A rule matches if all its argument conditions do. Rules for one call are
//     alternatives. If one rule has two conditions on the same argument, each of its
//     conditions is an alternative of its own.
//   - A rule without conditions stands behind all rules with conditions of the same call.
//   - Rules whose action is the default action say nothing.
//   - A call newer than all the profile names (for an architecture) is answered with
//     ENOSYS, unless the default action lets calls through: a C library that tries a new
//     call falls back on ENOSYS and dies of EPERM.
//   - A call by an architecture that is not listed ends the process.
//
// It differs in one thing, to be safe: of arguments that the kernel takes as 32-bit numbers,
// conditions see 32 bits too (words).
package seccomp

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled program and the flags to load it with (SECCOMP_FILTER_FLAG_*).
type Filter struct {
	Program []unix.SockFilter
	Flags   uint
	Notify  bool // some call is to be answered by a listener
}

// maxProfile is the size of a profile in bytes above which Load refuses.
const maxProfile = 1 << 20

// maxInstructions is the kernel's limit of a filter, BPF_MAXINSNS.
const maxInstructions = 4096

// Compile translates s for this machine's architecture. No section has no Filter.
// Unknown names of system calls are ignored, as runc does: a profile may name calls of
// all kernels. Anything else that is unknown is an errdefs.ErrInvalidArgument.
func Compile(s *specs.LinuxSeccomp) (*Filter, error) { return compileFor(s, runtime.GOARCH) }

func compileFor(s *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	if s == nil {
		return nil, nil
	}
	f, err := compile(s, goarch)
	if err != nil {
		return nil, fmt.Errorf("compiling the seccomp profile: %w", err)
	}
	return f, nil
}

// Default is docker's profile for a process with the bounding capabilities of spec.
func Default(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	s, err := seccomp.GetDefaultProfile(withCapabilities(spec))
	if err != nil {
		return nil, fmt.Errorf("making the default seccomp profile: %w", err)
	}
	return s, nil
}

// Load reads a profile in docker's JSON form, whose rules may depend on the bounding
// capabilities of spec.
func Load(profile []byte, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	if len(profile) > maxProfile {
		return nil, fmt.Errorf("seccomp profile of %d bytes: %w", len(profile), errdefs.ErrInvalidArgument)
	}
	s, err := seccomp.LoadProfile(string(profile), withCapabilities(spec))
	if err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// withCapabilities is spec with the fields the profile library reads without asking.
func withCapabilities(spec *specs.Spec) *specs.Spec {
	if spec != nil && spec.Process != nil && spec.Process.Capabilities != nil {
		return spec
	}
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
}
