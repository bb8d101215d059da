package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// runtimeHooks runs the hooks that run in our namespaces while the container has its own but
// not yet its root: runtime-spec, config.md, "POSIX-platform Hooks".
func (c *Container) runtimeHooks(ctx context.Context, s *specs.Spec) error {
	if s.Hooks == nil {
		return nil
	}
	//lint:ignore SA1019 docker still uses them
	if err := c.runHooks(ctx, "prestart", s.Hooks.Prestart, specs.StateCreating, s.Annotations); err != nil {
		return err
	}
	return c.runHooks(ctx, "createRuntime", s.Hooks.CreateRuntime, specs.StateCreating, s.Annotations)
}

// hookState is what hooks are told on standard input.
func (c *Container) hookState(status Status, annotations map[string]string) ([]byte, error) {
	state := specs.State{Version: specs.Version, ID: c.ID, Status: status, Bundle: c.Bundle, Annotations: annotations}
	if status != specs.StateStopped {
		state.Pid = c.Init.PID
	}
	return json.Marshal(state)
}

// runHooks runs the hooks of a point in their order until one fails.
func (c *Container) runHooks(ctx context.Context, point string, list []specs.Hook, status Status, annotations map[string]string) error {
	text, err := c.hookState(status, annotations)
	if err != nil {
		return err
	}
	for i, h := range list {
		if err := runHook(ctx, h, c.Bundle, text); err != nil {
			return fmt.Errorf("error running %s hook #%d: %s: %w", point, i, h.Path, err) // runc's words
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, dir string, state []byte) error {
	ctx, cancel, err := hookTime(ctx, h)
	if err != nil {
		return err
	}
	defer cancel()
	out := &limited{left: maxOutput}
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args, cmd.Env, cmd.Dir = h.Args, h.Env, dir
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // not ours
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), out, out
	cmd.WaitDelay = time.Second // something it left may hold its output
	err = cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return hookError(ctx, err, out)
}

// hookTime is the context for a hook, which ends with its time (config.md, POSIX-platform Hooks).
func hookTime(ctx context.Context, h specs.Hook) (context.Context, context.CancelFunc, error) {
	if h.Timeout == nil {
		return ctx, func() {}, nil
	}
	n := *h.Timeout
	if n <= 0 {
		return nil, nil, fmt.Errorf("timeout %d is not greater than zero: %w", n, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(n)*time.Second,
		fmt.Errorf("it did not end within its timeout of %d s: %w", n, context.DeadlineExceeded))
	return ctx, cancel, nil
}

// hookError says why a hook failed and what it said.
func hookError(ctx context.Context, err error, out *limited) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if text := out.said(); len(text) > 0 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
