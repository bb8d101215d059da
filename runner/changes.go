package runner

import (
	"context"

	"github.com/containerd/errdefs"
)

// ChangeKind says what happened to a file, with docker's numbers.
type ChangeKind int

// The kinds of changes.
const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// Change is a difference between a container's root filesystem and its image.
type Change struct {
	Path string
	Kind ChangeKind
}

// Changes lists what a container has changed of its image's files, by path.
func (e *Engine) Changes(ctx context.Context, ref string) ([]Change, error) {
	return nil, errdefs.ErrNotImplemented
}
