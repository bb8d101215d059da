// Package hook runs the hooks of containers: runtime-spec 1.3, config.md, "POSIX-platform Hooks".
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/slack"
)

// Point is where in a container's life hooks run.
type Point string

// The points in the order of a life. CreateContainer and StartContainer run in the container's
// namespaces: the first is a program of the host, before the root is entered, the second one of
// the container and as confined as its command. All others run in ours.
const (
	Prestart        Point = "prestart"
	CreateRuntime   Point = "createRuntime"
	CreateContainer Point = "createContainer"
	StartContainer  Point = "startContainer"
	Poststart       Point = "poststart"
	Poststop        Point = "poststop"
)

// status is what hooks are told of the container.
func (p Point) status() specs.ContainerState {
	switch p {
	case StartContainer:
		return specs.StateCreated
	case Poststart:
		return specs.StateRunning
	case Poststop:
		return specs.StateStopped
	}
	return specs.StateCreating
}

// Of returns the hooks of a point.
func (p Point) Of(h *specs.Hooks) []specs.Hook {
	if h == nil {
		return nil
	}
	switch p {
	case Prestart:
		//lint:ignore SA1019 docker still uses them
		return h.Prestart
	case CreateRuntime:
		return h.CreateRuntime
	case CreateContainer:
		return h.CreateContainer
	case StartContainer:
		return h.StartContainer
	case Poststart:
		return h.Poststart
	}
	return h.Poststop
}

// Container is what hooks are run for.
type Container struct {
	ID     string
	PID    int      // of its first process
	PIDFD  *os.File // and a pidfd of it, for hooks in its namespaces
	Bundle string   // absolute; hooks of the host run there
	Spec   *specs.Spec
	// Rootfs is where those of CreateContainer run and, in their namespaces, find the root.
	Rootfs string
	// Env is the environment of those of StartContainer that have none.
	Env []string
	// Group is the control group of those of StartContainer; nil: ours.
	Group *cgroup.Group
	// Keeper gives the keeper's executable, for those in the container's namespaces.
	Keeper func() (*keeper.Binary, error)
}

// Run runs the hooks of a point in their order until one fails.
func (c *Container) Run(ctx context.Context, at Point) error {
	list := at.Of(c.Spec.Hooks)
	if len(list) == 0 {
		return nil
	}
	text, err := c.state(at)
	if err != nil {
		return err
	}
	for i := range list {
		if err := c.run(ctx, at, i, text); err != nil {
			return err
		}
	}
	return nil
}

// RunAll runs all hooks of a point and says which failed.
func (c *Container) RunAll(ctx context.Context, at Point) (warnings []string) {
	text, err := c.state(at)
	if err != nil {
		return []string{err.Error()}
	}
	for i := range at.Of(c.Spec.Hooks) {
		if err := c.run(ctx, at, i, text); err != nil {
			warnings = append(warnings, err.Error())
		}
	}
	return warnings
}

// state is what hooks are told on standard input.
func (c *Container) state(at Point) ([]byte, error) {
	state := specs.State{Version: specs.Version, ID: c.ID, Status: at.status(), Bundle: c.Bundle, Annotations: c.Spec.Annotations}
	if at != Poststop {
		state.Pid = c.PID
	}
	return json.Marshal(state)
}

// run runs the hook with a number of those of a point.
func (c *Container) run(ctx context.Context, at Point, i int, state []byte) error {
	h := at.Of(c.Spec.Hooks)[i]
	ctx, cancel, err := hookTime(ctx, h)
	if err == nil {
		defer cancel()
		if at == CreateContainer || at == StartContainer {
			err = c.runInside(ctx, at, h, state)
		} else {
			err = runHere(ctx, h, c.Bundle, state)
		}
	}
	if err != nil {
		return fmt.Errorf("error running %s hook #%d: %s: %w", at, i, h.Path, err) // runc's words
	}
	return nil
}

// hostEnv is the environment of a hook that is a program of the host: without one of its own it has
// ours, as with runc and crun; hooks that are scripts look for their programs in PATH. That of a
// createContainer hook is ours as well, as with crun. With runc it is the container's, by which an
// image chose what a program of the host loads (CVE-2025-23266).
func hostEnv(h specs.Hook) []string {
	if h.Env == nil {
		return os.Environ()
	}
	return ownEnv(h)
}

// KeepEmptyEnv makes hooks whose environment is an empty list, and not absent, keep it through
// JSON, which leaves an empty list out: as one empty string, which is no variable.
func KeepEmptyEnv(h *specs.Hooks) {
	for _, at := range []Point{Prestart, CreateRuntime, CreateContainer, StartContainer, Poststart, Poststop} {
		list := at.Of(h)
		for i := range list {
			if list[i].Env != nil && len(list[i].Env) == 0 {
				list[i].Env = []string{""}
			}
		}
	}
}

// ownEnv is the environment a hook has of its own. It may be empty and is not nil.
func ownEnv(h specs.Hook) []string {
	return slices.DeleteFunc(append([]string{}, h.Env...), func(v string) bool { return v == "" })
}

func runHere(ctx context.Context, h specs.Hook, dir string, state []byte) error {
	out := &limited{left: maxOutput}
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args, cmd.Env, cmd.Dir = h.Args, hostEnv(h), dir
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), out, out
	cmd.WaitDelay = time.Second // something it left may hold its output
	var err error
	slack.Usual(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
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
