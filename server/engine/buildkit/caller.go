package buildkit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/registry"
)

// A caller is the client of one build: what its session offers, and what of it was brought here.
type caller struct {
	server  *Server
	id      string // of its session
	builder *build.Builder

	mu       sync.Mutex
	releases []func() error
	written  []*clientCache  // those that the build sends its cache to
	uploads  map[string]bool // paths that were pulled

	bringing sync.Mutex
	layouts  map[string]string // directories of OCI layouts that were brought, by name, digest and platform
}

var errNoSession = fmt.Errorf("the client has no session: %w", errdefs.ErrUnavailable)

// sessionComes is how long the session of a build may come after it.
const sessionComes = 10 * time.Second

// of returns the session id, or that of the build.
func (c *caller) of(ctx context.Context, id string) (session.Caller, error) {
	if id == "" {
		id = c.id
	}
	if id == "" {
		return nil, errNoSession
	}
	ctx, cancel := context.WithTimeout(ctx, sessionComes)
	defer cancel()
	s, err := c.server.sessions.Get(ctx, id, false)
	if err != nil {
		return nil, fmt.Errorf("session of the client: %w: %w", errdefs.ErrUnavailable, err)
	}
	return s, nil
}

// keep lets release wait for the end of the build.
func (c *caller) keep(release func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releases = append(c.releases, release)
}

// close gives back all that was kept.
func (c *caller) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, release := range c.releases {
		errs = append(errs, release())
	}
	c.releases = nil
	return errors.Join(errs...)
}

// credential asks the client for its credentials of a registry.
func (c *caller) credential(ctx context.Context, domain string) (cred registry.Credential, err error) {
	s, err := c.of(ctx, "")
	if errors.Is(err, errNoSession) {
		return cred, nil
	}
	if err != nil {
		return cred, err
	}
	if domain == "docker.io" {
		domain = "registry-1.docker.io" // as clients know it
	}
	res, err := auth.NewAuthClient(s.Conn()).Credentials(ctx, &auth.CredentialsRequest{Host: domain})
	if status.Code(err) == codes.Unimplemented {
		return cred, nil
	}
	if err != nil {
		return cred, fmt.Errorf("asking the client for credentials of %s: %w", domain, err)
	}
	if res.Username == "" { // docker's config.json has an identity token instead
		return registry.Credential{IdentityToken: res.Secret}, nil
	}
	return registry.Credential{Username: res.Username, Secret: res.Secret}, nil
}

// Secret implements op.Secrets.
func (c *caller) Secret(ctx context.Context, id string) ([]byte, error) {
	s, err := c.of(ctx, "")
	if errors.Is(err, errNoSession) {
		return nil, errdefs.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	b, err := secrets.GetSecret(ctx, s, id)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil, errdefs.ErrNotFound
	}
	return b, err
}
