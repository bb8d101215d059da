package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/tinyelf"
)

// Make makes a user namespace with the IDs of a container and in it the namespaces of
// flags (clone(2)), which belong to it, and calls hold with a process that is in them. They
// vanish with that process, at the end of the call, except for what hold has bound or
// opened. The caller must be allowed to map the IDs.
func Make(flags uintptr, uids, gids []specs.LinuxIDMapping, hold func(pid int) error) (err error) {
	in, stay, err := os.Pipe() // it ends with this process
	if err != nil {
		return err
	}
	defer in.Close()
	defer stay.Close()
	cmd, release, err := sleeper(in)
	if err != nil {
		return err
	}
	defer release()
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | flags
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = idMap(uids), idMap(gids)
	cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a user namespace: %w", cannotMake(err))
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Kill())
		cmd.Wait() // it was killed
	}()
	return hold(cmd.Process.Pid)
}

// Join is Make in the user namespace behind a descriptor.
func Join(user *os.File, flags uintptr, hold func(pid int) error) (err error) {
	in, stay, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	defer stay.Close()
	const number = 4 // sleeper has 3
	cmd, release, err := sleeping(in, tinyelf.SleepIn(number, flags))
	if err != nil {
		return err
	}
	defer release()
	cmd.ExtraFiles = append(cmd.ExtraFiles, user)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("joining a user namespace: %w", err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		err = cmd.Wait()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = syscall.Errno(exit.ExitCode())
		}
		return fmt.Errorf("joining a user namespace: %w", err)
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Kill())
		cmd.Wait() // it was killed
	}()
	return hold(cmd.Process.Pid)
}

func idMap(list []specs.LinuxIDMapping) (m []syscall.SysProcIDMap) {
	for _, r := range list {
		m = append(m, syscall.SysProcIDMap{ContainerID: int(r.ContainerID), HostID: int(r.HostID), Size: int(r.Size)})
	}
	return m
}
