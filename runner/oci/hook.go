package oci

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// CompileHook makes the program that runs a createContainer hook in the namespaces of a
// container that waits at its gate, as root of its user namespace and with the host's
// files still in sight. The program wants five files: standard input, output, error, in
// pidfdSlot a pidfd of the container's first process and in RootSlot its /proc/PID/root.
// dir is the working directory.
func CompileHook(s *specs.Spec, h specs.Hook, dir string) (*launch.Program, error) {
	c := &compiler{spec: s, process: s.Process}
	if err := c.checkUser(); err != nil {
		return nil, fmt.Errorf("compiling the hook: %w", err)
	}
	c.Assembler = launch.NewAssembler(launch.Options{Slots: RootSlot + 1})
	c.Note("starting the process")
	c.DefaultSignals()
	c.Call(unix.SYS_UMASK, launch.Int(0o022))
	c.enterContainer()
	c.Note("entering the directory %s", dir)
	c.Call(unix.SYS_FCHDIR, launch.Int(RootSlot))
	c.Call(unix.SYS_CHROOT, c.Str("."))
	c.CallIf(ignore(unix.EACCES), unix.SYS_CHDIR, c.Str(dir))
	c.NoteExec(h.Path)
	c.Fork(0)
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	c.Exec([]string{h.Path}, args, h.Env)
	return c.Program()
}
