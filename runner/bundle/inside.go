package bundle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/oci"
)

// point is one of the two at which hooks run in the container's namespaces; runtime-spec
// 1.3, config.md, "POSIX-platform Hooks".
type point int

const (
	createContainer point = iota // before the root is entered: the hook is the host's
	startContainer               // instead of the command: the hook is the container's, and as confined
)

// maxOutput is how much of a hook's output is kept for an error.
const maxOutput = 16 << 10

// runInside runs the hooks of a point in their order until one fails.
func (c *Container) runInside(ctx context.Context, conf *specs.Spec, at point, pidfd *os.File) error {
	if conf.Hooks == nil {
		return nil
	}
	name, list, status := "createContainer", conf.Hooks.CreateContainer, specs.StateCreating
	if at == startContainer {
		name, list, status = "startContainer", conf.Hooks.StartContainer, specs.StateCreated
	}
	if len(list) == 0 {
		return nil
	}
	text, err := c.hookState(status, conf.Annotations)
	if err != nil {
		return err
	}
	for i, h := range list {
		if err := c.runHookInside(ctx, conf, h, at, pidfd, text); err != nil {
			return fmt.Errorf("error running %s hook #%d: %s: %w", name, i, h.Path, err)
		}
	}
	return nil
}

func (c *Container) runHookInside(ctx context.Context, conf *specs.Spec, h specs.Hook, at point, pidfd *os.File, state []byte) error {
	ctx, cancel, err := hookTime(ctx, h)
	if err != nil {
		return err
	}
	defer cancel()
	p, err := c.hookProgram(conf, h, at)
	if err != nil {
		return err
	}
	files := []*os.File{pidfd}
	if p.Slots() > oci.RootSlot {
		root, err := c.root()
		if err != nil {
			return err
		}
		defer root.Close()
		files = append(files, root)
	}
	b, err := c.store.keeper()
	if err != nil {
		return err
	}
	out := &limited{left: maxOutput}
	exit, err := keeper.Run(ctx, b, keeper.Job{Program: p, Stdin: bytes.NewReader(state), Stdout: out, Stderr: out, Files: files})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit status %d", exit.Code)
	}
	if err == nil {
		return nil
	}
	return hookError(ctx, err, out)
}

func (c *Container) hookProgram(conf *specs.Spec, h specs.Hook, at point) (*launch.Program, error) {
	if at == createContainer {
		return oci.CompileHook(conf, h, c.Rootfs) // where runc runs it
	}
	process := *conf.Process
	process.Args, process.Terminal = h.Args, false
	if h.Env != nil { // else the command's, as it always was with runc
		process.Env = h.Env
	} else {
		process.Env = withHome(process.Env, c.Rootfs, process.User.UID)
	}
	if len(process.Args) == 0 {
		process.Args = []string{h.Path}
	}
	o := oci.ExecOptions{Command: h.Path}
	if g, err := c.group(); err != nil {
		return nil, err
	} else if g != nil {
		o.CgroupProcs, o.CgroupDir = g.Joins(), g.V2Dir()
	}
	return oci.CompileExec(conf, &process, o)
}

// root is the root directory of the container's first process.
func (c *Container) root() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/root", c.Init.PID))
}

// limited keeps the beginning of what is written to it. It is safe for concurrent use.
type limited struct {
	mu   sync.Mutex
	text []byte
	left int
}

// said is what was written, without the white space around it.
func (l *limited) said() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.TrimSpace(l.text)
}

func (l *limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(b), l.left)
	l.left -= n
	l.text = append(l.text, b[:n]...)
	return len(b), nil
}
