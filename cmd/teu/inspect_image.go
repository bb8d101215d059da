package main

import (
	"context"

	"github.com/containerd/errdefs"
)

func (a *app) inspectImage(ctx context.Context, ref string) (any, error) {
	return nil, errdefs.ErrNotFound
}
