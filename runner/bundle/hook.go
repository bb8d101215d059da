package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

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
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args, cmd.Env, cmd.Dir = h.Args, h.Env, dir
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // not ours
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), &out, &out
	cmd.WaitDelay = time.Second // something it left may hold its output
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
}
