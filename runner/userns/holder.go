package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/tinyelf"
)

// newHolder makes the namespaces, and in them a process that keeps them, which sleeps once
// it has read a byte from in. Where subordinate IDs are granted and cannot be mapped, as in
// a container without setuid programs, there is one ID.
func newHolder(ctx context.Context, in *os.File, warn func(string)) (statefile.Process, error) {
	ids, err := userMapping()
	if err != nil {
		return statefile.Process{}, err
	}
	p, err := holderWith(ctx, in, ids)
	if err == nil || len(ids.UIDs) == 0 && !ids.Same || ctx.Err() != nil {
		return p, err
	}
	p, single := holderWith(ctx, in, Mapping{UID: ids.UID, GID: ids.GID})
	if single != nil {
		return p, err
	}
	if warn != nil {
		warn(fmt.Sprintf("containers have one user only: %v", err))
	}
	return p, nil
}

func holderWith(ctx context.Context, in *os.File, ids Mapping) (statefile.Process, error) {
	cmd, release, err := sleeper(in)
	if err != nil {
		return statefile.Process{}, err
	}
	defer release()
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	if err := cmd.Start(); err != nil {
		return statefile.Process{}, cannotMake(err)
	}
	p, err := statefile.Identify(cmd.Process.Pid)
	if err == nil {
		err = ids.apply(ctx, cmd.Process.Pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return statefile.Process{}, err
	}
	return p, nil
}

// cannotMake explains why there is no user namespace.
func cannotMake(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w; raise the sysctl user.max_user_namespaces", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if Filtered() {
			return fmt.Errorf("%w; no user namespaces can be made here: start the container that this is in with --security-opt seccomp=unconfined "+
				"--security-opt systempaths=unconfined, or with --privileged", err)
		}
		return fmt.Errorf("%w; this host does not let ordinary users make user namespaces: see the sysctls kernel.unprivileged_userns_clone "+
			"and kernel.apparmor_restrict_unprivileged_userns", err)
	}
	return err
}

// Filtered says whether a seccomp filter decides what this process may do, as in a container.
func Filtered() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil && mode == 2 // SECCOMP_MODE_FILTER
}

// sleeper is a process that only sleeps, in a session of its own. It executes a descriptor
// of its own table: /proc/PID of its parent is closed to it in another user namespace.
func sleeper(in *os.File) (cmd *exec.Cmd, release func(), err error) {
	return sleeping(in, tinyelf.Sleep())
}

func sleeping(in *os.File, code []byte) (cmd *exec.Cmd, release func(), err error) {
	fd, err := tinyelf.Memfd("teu-holder", code)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), "teu-holder")
	return &exec.Cmd{
		Path: "/proc/self/fd/3", Args: []string{"teu-holder"}, Env: []string{}, Dir: "/", Stdin: in,
		ExtraFiles: []*os.File{f}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}, func() { f.Close() }, nil
}

// reviveHolder puts another holder into the namespaces of a process that is left of those
// that shared them.
func reviveHolder(in *os.File, survivors func() []statefile.Process) (statefile.Process, error) {
	if survivors == nil {
		return statefile.Process{}, errdefs.ErrNotFound
	}
	for _, s := range survivors() {
		ns, err := open(s)
		if err != nil {
			continue
		}
		p, err := holderIn(in, ns)
		ns.close()
		if err == nil {
			return p, nil
		}
	}
	return statefile.Process{}, errdefs.ErrNotFound
}

func holderIn(in *os.File, ns namespaces) (statefile.Process, error) {
	cmd, release, err := sleeper(in)
	if err != nil {
		return statefile.Process{}, err
	}
	defer release()
	const user, mounts = 4, 5 // as they come among ExtraFiles
	fd, err := tinyelf.Memfd("teu-enter", tinyelf.Enter(user, mounts))
	if err != nil {
		return statefile.Process{}, err
	}
	step := os.NewFile(uintptr(fd), "teu-enter")
	defer step.Close()
	cmd.Args = []string{cmd.Path, "/", "teu-holder"}
	cmd.Path = "/proc/self/fd/6"
	cmd.ExtraFiles = append(cmd.ExtraFiles, ns.user, ns.mounts, step)
	if err := cmd.Start(); err != nil {
		return statefile.Process{}, err
	}
	return awaitHolder(cmd)
}

// awaitHolder returns when a holder sleeps inside, or has ended on its way there.
func awaitHolder(cmd *exec.Cmd) (statefile.Process, error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 2000 {
		select {
		case err := <-ended:
			return statefile.Process{}, fmt.Errorf("entering the namespaces: %w", errors.Join(err, errdefs.ErrUnavailable))
		case <-time.After(time.Millisecond):
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
		if err == nil && strings.HasPrefix(exe, "/memfd:teu-holder") {
			return statefile.Identify(cmd.Process.Pid)
		}
	}
	cmd.Process.Kill()
	return statefile.Process{}, fmt.Errorf("entering the namespaces: %w", errdefs.ErrUnavailable)
}
