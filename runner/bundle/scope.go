package bundle

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/systemd"
)

// claimScope chooses the scope whose control group will be the container's, and the systemd
// that will make it.
func (c *Container) claimScope(ctx context.Context, h *cgroup.Host, cgroupsPath string) (group string, m *systemd.Manager, err error) {
	if c.Scope, err = systemd.ParseScope(cgroupsPath, c.ID, systemd.User()); err != nil {
		return "", nil, err
	}
	if h.Mode() == cgroup.V1 {
		return "", nil, fmt.Errorf("control groups of version 1 made by systemd, which would undo their rules for devices; use the cgroupfs driver: %w", errdefs.ErrNotImplemented)
	}
	if m, err = systemd.Dial(ctx); err == nil {
		group, err = m.Group(ctx, c.Scope)
	}
	return group, m, err
}

// startScope has systemd make the container's control group, with the keeper in it that
// will start the container's process there. Whoever is not in the part of the hierarchy that
// is a user's own could not put it there.
func (c *Container) startScope(ctx context.Context, m *systemd.Manager, l *keeper.Launcher, conf *specs.Spec) error {
	pid, err := l.PID()
	if err != nil {
		return err
	}
	return m.Start(ctx, c.Scope, "Container "+c.ID+" of teu", pid, conf.Annotations)
}

// stopScope ends the scope of a container whose processes have ended.
func (c *Container) stopScope(ctx context.Context) error {
	if c.Scope.Unit == "" {
		return nil
	}
	return withSystemd(ctx, func(m *systemd.Manager) error { return m.Stop(ctx, c.Scope) })
}

func withSystemd(ctx context.Context, fn func(*systemd.Manager) error) error {
	m, err := systemd.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return fn(m)
}
