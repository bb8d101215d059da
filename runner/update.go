package runner

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/keeper"
)

// UpdateOptions are what a container shall have from now on. Nil changes nothing; of
// Resources only the fields that are set count.
type UpdateOptions struct {
	Resources *specs.LinuxResources
	Restart   *keeper.RestartPolicy
}

// Update changes the limits and the restart policy of a container, at once if it runs.
func (e *Engine) Update(ctx context.Context, ref string, o UpdateOptions) (warnings []string, err error) {
	return nil, errdefs.ErrNotImplemented
}

// Resize sets the size of a running container's terminal, in characters.
func (e *Engine) Resize(ctx context.Context, ref string, columns, rows uint16) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	k, err := e.client(ctx, c)
	if err != nil {
		return err
	}
	return k.Resize(ctx, columns, rows)
}
