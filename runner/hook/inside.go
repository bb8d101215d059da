package hook

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

// maxOutput is how much of a hook's output is kept for an error.
const maxOutput = 16 << 10

// runInside runs a hook in the container's namespaces.
func (c *Container) runInside(ctx context.Context, at Point, h specs.Hook, state []byte) error {
	p, err := c.program(at, h)
	if err != nil {
		return err
	}
	files := []*os.File{c.PIDFD}
	if p.Slots() > oci.RootSlot {
		root, err := os.Open(fmt.Sprintf("/proc/%d/root", c.PID))
		if err != nil {
			return err
		}
		defer root.Close()
		files = append(files, root)
	}
	b, err := c.Keeper()
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

func (c *Container) program(at Point, h specs.Hook) (*launch.Program, error) {
	if at == CreateContainer {
		h.Env = hostEnv(h)
		return oci.CompileHook(c.Spec, h, c.Rootfs) // where runc runs it
	}
	process := *c.Spec.Process
	process.Args, process.Env, process.Terminal = h.Args, ownEnv(h), false
	if h.Env == nil { // then the command's, as it always was with runc
		process.Env = c.Env
	}
	if len(process.Args) == 0 {
		process.Args = []string{h.Path}
	}
	o := oci.ExecOptions{Command: h.Path}
	if c.Group != nil {
		o.CgroupProcs, o.CgroupDir = c.Group.Joins(), c.Group.V2Dir()
	}
	return oci.CompileExec(c.Spec, &process, o)
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
