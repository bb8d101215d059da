//go:build !front && !porter

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/library"
)

// inspectOther finds what is no container, in docker's order.
func (a *app) inspectOther(ctx context.Context, kind, ref string) (any, error) {
	finders := []struct {
		kind string
		find func() (any, error)
	}{
		{"image", func() (any, error) { return a.inspectImage(ctx, ref, library.InspectOptions{}) }},
		{"network", func() (any, error) { return a.engine().InspectNetwork(ctx, ref) }},
		{"volume", func() (any, error) { return a.inspectVolume(ref) }},
	}
	for _, f := range finders {
		if kind != "" && kind != f.kind {
			continue
		}
		o, err := f.find()
		if err == nil || kind != "" || !isNotFound(err) && !errors.Is(err, errdefs.ErrInvalidArgument) {
			return o, err
		}
	}
	return nil, fmt.Errorf("no such object: %s", ref)
}
