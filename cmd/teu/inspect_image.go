//go:build !front

package main

import "context"

func (a *app) inspectImage(ctx context.Context, ref string) (any, error) {
	lib, err := a.library()
	if err != nil {
		return nil, err
	}
	return lib.Inspect(ctx, ref)
}
