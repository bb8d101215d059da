// Package oci compiles a runtime spec to the program that makes its container.
//
// It implements the Linux part of runtime-spec 1.3 as plan, then act: everything is
// decided here, by reading the spec and the host, and written down as a
// [launch.Program]; whoever starts the program needs no knowledge of specs. The order:
//
//	session, namespaces, cgroups           then nothing the host sees changes any more
//	root, mounts, devices, terminal        every path resolved inside the root, by descriptor
//	read-only and masked paths             on the filesystems themselves where we made them
//	pivot_root, hostname, sysctls, limits  through a procfs that is mounted nowhere
//	close files, working directory         no descriptor is left to climb out by
//	bounding set, seccomp, ids, capset     seccomp last with no_new_privs, else before capset
//	execve
//
// What a container can influence is only the tree below its root. So no path in it is ever
// looked up twice for one purpose, links never lead out of it, and the kernel's own
// filesystems are reached by the descriptors they were made with, not by their paths.
package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// Rootfs is where the container's root comes from: an overlay to be mounted, or a
// directory of the host.
type Rootfs struct {
	Overlay mount.Overlay
	Path    string // used if not empty
	// Mapped shows the files of the overlay with owners of the container's user namespace:
	// root's are its root's. On disk nothing changes, nor does what the container writes
	// differ from what it would write without.
	Mapped bool
}

// Options are what is not in a spec.
type Options struct {
	// CgroupProcs are the files by which the process joins its groups (cgroup.Group.Joins).
	CgroupProcs []string
	// CgroupDir is the cgroup2 directory it is born in where possible (cgroup.Group.V2Dir).
	CgroupDir string
	// InCgroup says that whoever starts the process is in the groups of CgroupProcs.
	InCgroup bool
	// Detached are mounts that come as files, by the destination of a mount of the spec
	// with type "bind", whose source is then not used, or with the option tmpcopyup. Such a program can be started once.
	Detached map[string]Detached
	// Taken are bind mounts, by destination, of what is mounted at the same place in
	// another container.
	Taken map[string]Taken
	// Expected are the inodes of namespaces given by path, by path, where one may lead to
	// another namespace by the time the program runs: the start then fails with ESRCH.
	Expected map[string]uint64
	// Subpaths are directories or files below the sources of bind mounts and in overlays, by
	// destination, which are mounted instead. They are looked up without leaving the source.
	Subpaths map[string]string
	// SubpathFiles are the destinations of those in overlays that are files.
	SubpathFiles map[string]bool
	// Pause makes the program stop before the command, until somebody opens the FIFO at
	// this path for reading; launch.Start returns at that point. It is create without start.
	// Root of the container's user namespace must be allowed to open it for writing.
	Pause string
	// Gate is such a FIFO for a stop before the container's root is entered, when the
	// spec's prestart, createRuntime and createContainer hooks are run by the caller. All
	// other hooks, and moving network devices, are the caller's too.
	Gate string
	// HooksRoot is a directory where hooks find a root that is an overlay.
	HooksRoot string
	// Preserve is the number of files, in the slots from 3 on and before those of Detached,
	// that the command gets.
	Preserve int

	// Listener is a FIFO at which the process waits, having said the number of its seccomp
	// listener to whoever follows it (launch.Follow), until a byte is written to it.
	Listener string
	// NoPivot enters the root by chroot instead of pivot_root, which a root in an
	// initramfs needs.
	NoPivot bool
	// UserOfNetwork makes the user namespace the one that the given network namespace
	// belongs to, which has the spec's mappings.
	UserOfNetwork bool
	// SharedKeyring keeps the session keyring of the caller.
	SharedKeyring bool
	// Keyring is the name of the container's session keyring, which those need who are to enter it too.
	Keyring string
	// KeepGroups lets the command have the groups of the caller instead of the spec's.
	KeepGroups bool
	// HoldSignals executes the command with all signals blocked: those that come before it
	// has handlers wait for them. The first process of a PID namespace loses them otherwise
	// (pid_namespaces(7)). The command must unblock them itself.
	HoldSignals bool
	// NoCommand makes a program that has nothing to execute and fails after the pause.
	NoCommand bool

	oldKernel bool // for tests: use none of the calls that newer kernels have
}

// Detached is a mount without a place (open_tree(2), fsmount(2)) in a file slot from 3 on.
type Detached struct {
	Slot int
	File bool // its root is no directory
}

// Taken is a container to take a mount from: its first process and, as the number may be
// another's by the time the program runs, the inode of that one's mount namespace.
type Taken struct {
	PID       int
	Namespace uint64
}

// pidfdSlot is the file of an exec program that is a pidfd of the container's init.
const pidfdSlot = 3

// RootSlot is the file of an exec program that is the root of the container's init
// (/proc/PID/root), where ExecSlots says there is one.
const RootSlot = pidfdSlot + 1

// ExecSlots is the number of files an exec program for the container wants, before those
// to preserve: a root only if the container has no mount namespace of its own.
func ExecSlots(s *specs.Spec) int {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.MountNamespace && ns.Path == "" {
			return RootSlot
		}
	}
	return RootSlot + 1
}

// ExecOptions are what is not in the process of an exec.
type ExecOptions struct {
	CgroupProcs []string
	CgroupDir   string
	// Preserve is the number of files, in the slots after the fixed ones, that the command
	// gets as descriptors from 3 on.
	Preserve int
	// Command is executed instead of the process's first argument, if not empty.
	Command string
	// KeepGroups, SharedKeyring and Keyring are those of Options. Without a name the process has a keyring of its own.
	KeepGroups, SharedKeyring bool
	Keyring                   string
}

// Compile makes the program that starts s.Process in a new container. The program wants
// three files, standard input, output and error, and those of o.Detached. With
// s.Process.Terminal the three are not used (but must be given) and the terminal comes
// back as launch.Child.Console.
//
// What teu or this host cannot do although the spec asks for it is an
// errdefs.ErrNotImplemented, a contradiction in the spec an errdefs.ErrInvalidArgument.
func Compile(s *specs.Spec, r Rootfs, o Options) (*launch.Program, error) {
	return compile(s, r, o)
}

// CompileExec makes the program that starts p in the running container of s. The program
// wants ExecSlots files: standard input, output, error, in pidfdSlot a pidfd of the
// container's first process and perhaps its root in RootSlot.
func CompileExec(s *specs.Spec, p *specs.Process, o ExecOptions) (*launch.Program, error) {
	return compileExec(s, p, o)
}
