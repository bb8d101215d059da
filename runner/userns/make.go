package userns

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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

func idMap(list []specs.LinuxIDMapping) (m []syscall.SysProcIDMap) {
	for _, r := range list {
		m = append(m, syscall.SysProcIDMap{ContainerID: int(r.ContainerID), HostID: int(r.HostID), Size: int(r.Size)})
	}
	return m
}
