package runner

import (
	"context"

	"github.com/containerd/errdefs"
)

// ExecInfo is what is known of a command that was made to be executed in a container.
type ExecInfo struct {
	ID, ContainerID string
	Options         ExecOptions
	DetachKeys      string `json:",omitempty"`
	Started         bool   `json:",omitempty"`
	Running         bool   `json:",omitempty"`
	Pid             int    `json:",omitempty"` // as the host sees it
	ExitCode        *int   `json:",omitempty"` // nil until it has ended
}

// ExecCreate notes a command for a running container and returns its ID. It is forgotten
// when the container ends. detachKeys are only remembered.
func (e *Engine) ExecCreate(ctx context.Context, ref string, o ExecOptions, detachKeys string) (id string, err error) {
	return "", errdefs.ErrNotImplemented
}

// ExecStartOptions change how a noted command is started.
type ExecStartOptions struct {
	Detach        bool // its output is thrown away, and nobody waits
	TTY           bool
	Columns, Rows uint16 // of its terminal; 0: unknown
}

// ExecStart starts a noted command, which can be done once. With Detach the result has no
// streams. An unknown ID is an errdefs.ErrNotFound, a second start an errdefs.ErrConflict.
func (e *Engine) ExecStart(ctx context.Context, id string, o ExecStartOptions) (*Exec, error) {
	return nil, errdefs.ErrNotImplemented
}

// ExecInspect tells of a noted command.
func (e *Engine) ExecInspect(ctx context.Context, id string) (ExecInfo, error) {
	return ExecInfo{}, errdefs.ErrNotImplemented
}

// ExecResize sets the size of the terminal of a noted command that runs.
func (e *Engine) ExecResize(ctx context.Context, id string, columns, rows uint16) error {
	return errdefs.ErrNotImplemented
}
