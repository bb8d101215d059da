package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// joined are the namespaces that a container shares: "" for its own, "host", or a path.
type joined struct{ net, pid string }

// CheckNamespaces refuses modes that are none, and forgets the name of what every container
// has.
func (o *Options) CheckNamespaces() error {
	container := func(mode string) bool {
		name, ok := strings.CutPrefix(mode, "container:")
		return ok && name != ""
	}
	if o.IPCMode == "private" {
		o.IPCMode = ""
	}
	if o.CgroupMode == "private" {
		o.CgroupMode = ""
	}
	switch {
	case o.PIDMode != "" && o.PIDMode != "host" && !container(o.PIDMode):
		return worded(errdefs.ErrInvalidArgument, "invalid PID mode: %s", o.PIDMode)
	case container(o.IPCMode):
		return worded(errdefs.ErrInvalidArgument, "the IPC mode %s is not supported by teu: shared memory of other containers is not reached; host is the host's", o.IPCMode)
	case !slices.Contains([]string{"", "none", "shareable", "host"}, o.IPCMode):
		return worded(errdefs.ErrInvalidArgument, "invalid IPC mode: %s", o.IPCMode)
	case o.UTSMode != "" && o.UTSMode != "host":
		return worded(errdefs.ErrInvalidArgument, "invalid UTS mode: %s", o.UTSMode)
	case o.CgroupMode != "" && o.CgroupMode != "host":
		return worded(errdefs.ErrInvalidArgument, "invalid cgroup namespace mode: %s", o.CgroupMode)
	}
	return nil
}

// namePIDMode replaces the container of container:NAME by its ID, which it keeps.
func (e *Engine) namePIDMode(o *Options) error {
	ref, ok := strings.CutPrefix(o.PIDMode, "container:")
	if !ok {
		return nil
	}
	id, err := e.resolve(ref)
	if errdefs.IsNotFound(err) {
		return worded(errdefs.ErrInvalidArgument, "No such container: %s", ref)
	}
	o.PIDMode = "container:" + id
	return err
}

// pidNamespace is what a container's PIDMode means now. The namespace of another container
// is the one of its present run.
func (e *Engine) pidNamespace(ctx context.Context, c *Container) (string, error) {
	ref, ok := strings.CutPrefix(c.Options.PIDMode, "container:")
	if !ok {
		return c.Options.PIDMode, nil
	}
	other, err := e.Get(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("failed to join PID namespace: %w", err)
	}
	if !other.State.Alive() || !other.State.Init.Alive() {
		return "", worded(errdefs.ErrFailedPrecondition, "failed to join PID namespace: container %s is not running", other.ID)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", other.State.Init.PID), nil
}

// ownPID is the PID mode where only the container's processes count: what joins it finds
// its namespaces by a process.
func (o *Options) ownPID() string {
	if o.PIDMode == "host" {
		return "host"
	}
	return ""
}

// withoutShm takes /dev/shm away, as --ipc none asks for.
func withoutShm(s *specs.Spec) {
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
}

// ipcNamespace is what IPCMode means for the spec.
func (o *Options) ipcNamespace() string {
	switch o.IPCMode {
	case "none", "private", "shareable":
		return ""
	}
	return o.IPCMode
}
