package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// giveListener takes descriptor fd, a seccomp listener, from the container's process and
// passes it to the container's agent. Then the process may go on.
func (c *Container) giveListener(conf *specs.Spec, pidfd *os.File, fd int) error {
	got, err := unix.PidfdGetfd(int(pidfd.Fd()), fd, 0)
	if err != nil {
		return fmt.Errorf("taking the seccomp listener: %w", err)
	}
	f := os.NewFile(uintptr(got), "seccomp listener")
	defer f.Close()
	if err := c.sendListener(conf, c.Init.PID, f); err != nil {
		return err
	}
	fifo, err := os.OpenFile(filepath.Join(c.dir, watchName), os.O_RDWR, 0) // its reader lives, or is told nothing
	if err != nil {
		return err
	}
	defer fifo.Close()
	_, err = fifo.Write([]byte{1})
	return err
}

// sendListener tells the agent whose system calls the listener is about; runtime-spec 1.3,
// config-linux.md, "The Container Process State".
func (c *Container) sendListener(conf *specs.Spec, pid int, f *os.File) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	message, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: conf.Linux.Seccomp.ListenerMetadata, State: *state,
	})
	if err != nil {
		return err
	}
	if err := sendFile(conf.Linux.Seccomp.ListenerPath, message, f); err != nil {
		return fmt.Errorf("passing the seccomp listener on: %w", err)
	}
	return nil
}
