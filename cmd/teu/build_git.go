//go:build !front && !porter

package main

import (
	"context"
	"os"
	"strconv"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/dockerfile"
)

// addRepository looks which git repository the context is in, if that is to be told: by the provenance, and with
// BUILDX_GIT_LABELS by labels. The variables are those of docker buildx (Docker's docs, build/building/variables).
func addRepository(ctx context.Context, o *build.Options) error {
	stated := o.Provenance != nil && envBool("BUILDX_GIT_INFO", true)
	labels := os.Getenv("BUILDX_GIT_LABELS") == "full" || envBool("BUILDX_GIT_LABELS", false)
	if !stated && !labels || o.Context == "" || o.ContextTar != nil || build.IsRemoteContext(o.Context) {
		return nil
	}
	r, err := build.FindRepository(ctx, o.Context, envBool("BUILDX_GIT_CHECK_DIRTY", false))
	if err != nil || r == nil {
		if err != nil && ctx.Err() == nil { // the build can do without
			o.Warn(dockerfile.Warning{Text: err.Error()})
			err = nil
		}
		return err
	}
	if stated {
		o.Repository = r
	}
	if labels {
		r.Label(o)
	}
	return nil
}

// envBool returns what an environment variable says, or otherwise.
func envBool(name string, otherwise bool) bool {
	if v, err := strconv.ParseBool(os.Getenv(name)); err == nil {
		return v
	}
	return otherwise
}
