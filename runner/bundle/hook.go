package bundle

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/hook"
)

// hooks are those of conf for the container.
func (c *Container) hooks(conf *specs.Spec) *hook.Container {
	return &hook.Container{ID: c.ID, PID: c.Init.PID, Bundle: c.Bundle, Spec: conf, Rootfs: c.Rootfs, Keeper: c.store.keeper}
}

// startHooks are those that run in place of the command.
func (c *Container) startHooks(conf *specs.Spec, pidfd *os.File) (*hook.Container, error) {
	h := c.hooks(conf)
	h.PIDFD = pidfd
	if len(hook.StartContainer.Of(conf.Hooks)) == 0 {
		return h, nil
	}
	h.Env = withHome(conf.Process.Env, c.Rootfs, conf.Process.User.UID)
	var err error
	h.Group, err = c.group()
	return h, err
}
