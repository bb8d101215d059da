package build

import (
	"context"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// A Caller is somebody elsewhere whom a build is made for. nil stands for having nothing.
type Caller struct {
	// Compile says what to build, instead of the Dockerfile and contexts of Options; nil: they do. Without a
	// context in Options it is the caller's, as is the Dockerfile: local directories of dockerfile's names.
	Compile func(context.Context, dockerfile.Backend) (*dockerfile.Result, error)
	// Local returns a directory with what a local:// source selects of the caller's files. It stays as it
	// is until the build ends. How it goes is told on c.
	Local func(ctx context.Context, c *solver.Console, name string, attrs map[string]string) (dir string, err error)
	// Layout returns a directory with the image ref, NAME@DIGEST, for p of an OCI layout that the caller has.
	Layout func(ctx context.Context, name, ref string, p ocispec.Platform) (dir string, err error)
	// Cache opens a place of type=local, which is a directory of the caller.
	Cache func(ctx context.Context, ref CacheRef, write bool) (remotecache.Place, error)
	// Session is what such directories are marked with.
	Session string
	Secrets op.Secrets
	SSH     func(ctx context.Context, id string) (op.SSHAgent, bool)
	HTTP    *http.Client
	// KeepFailed keeps what failed commands leave until the end: their errors are an [*op.Failure].
	KeepFailed bool
}

// frontend returns who says what to build.
func (r *run) frontend(ctx context.Context) (func(context.Context, dockerfile.Backend) (*dockerfile.Result, error), error) {
	session := ""
	if c := r.o.Caller; c != nil {
		if c.Compile != nil {
			return c.Compile, nil
		}
		session = c.Session
	}
	attrs, err := r.attrs(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, b dockerfile.Backend) (*dockerfile.Result, error) {
		return dockerfile.Compile(ctx, b, dockerfile.Options{Attrs: attrs, Host: content.Host(), Name: r.o.DockerfileName, Session: session})
	}, nil
}
