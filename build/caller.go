package build

import (
	"context"
	"net/http"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// A Caller is somebody elsewhere whom a build is made for. Compile is required, nil stands for having
// nothing in the other fields.
type Caller struct {
	// Compile says what to build, instead of the Dockerfile and contexts of Options.
	Compile func(context.Context, dockerfile.Backend) (*dockerfile.Result, error)
	// Local returns a directory with what a local:// source selects of the caller's files. It stays as it
	// is until the build ends.
	Local   func(ctx context.Context, name string, attrs map[string]string) (dir string, err error)
	Secrets op.Secrets
	SSH     func(ctx context.Context, id string) (op.SSHAgent, bool)
	HTTP    *http.Client
}

// frontend returns who says what to build.
func (r *run) frontend(ctx context.Context) (func(context.Context, dockerfile.Backend) (*dockerfile.Result, error), error) {
	if r.o.Caller != nil {
		return r.o.Caller.Compile, nil
	}
	attrs, err := r.attrs(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, b dockerfile.Backend) (*dockerfile.Result, error) {
		return dockerfile.Compile(ctx, b, dockerfile.Options{Attrs: attrs, Host: content.Host(), Name: r.o.DockerfileName})
	}, nil
}
