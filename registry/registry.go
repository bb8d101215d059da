// Package registry is the client of any OCI or Docker registry, Docker Hub included.
//
// A Client knows credentials and keeps connections; a Repository is one repository of
// one registry and moves blobs as content.Fetcher and content.Pusher. Requests are
// repeated where that is safe, broken downloads and uploads go on where they broke, and
// credentials never leave the host they belong to.
//
// go-containerregistry gives the credentials (docker's config.json, podman's auth.json,
// credential helpers). Its transport is not used: it spends a ping per repository,
// knows neither Range nor Retry-After, and refuses token servers and redirects at
// private addresses, which is where a MinIO behind a registry lives.
package registry

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/content"
)

// A Keychain gives the credentials for a registry.
type Keychain = authn.Keychain

// Options change how a Client works. The zero value is what docker does.
type Options struct {
	// Insecure lists registries that may be reached over unverified TLS or plain HTTP:
	// "host", "host:port" or a CIDR for addresses. Loopback always may.
	Insecure []string
	// HostDirs hold mirrors and certificates by registry; nil means /etc/teu/certs.d and
	// /etc/docker/certs.d.
	HostDirs []string
	// Mirrors are asked before Docker Hub, as docker's registry-mirrors, unless a hosts.toml
	// speaks of it: "https://mirror.example".
	Mirrors []string
	// Keychain gives credentials; nil means docker's config.json and its helpers.
	Keychain Keychain
	// UserAgent is sent with every request.
	UserAgent string
	// ChunkSize splits uploads into pieces of so many bytes; 0 sends each blob as one stream.
	ChunkSize int64
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	options  Options
	insecure insecureHosts
	verified http.RoundTripper // TLS certificates are checked
	lax      http.RoundTripper // they are not: insecure hosts

	sleep func(context.Context, time.Duration) error
	now   func() time.Time
	stall time.Duration // longest wait for a header or for the next bytes

	spread  spreadOptions
	readers atomic.Int32 // of blobs, each by one or several connections

	mu           sync.Mutex
	hosts        map[string]*host
	mirrored     map[string][]mirror // by the name of the registry
	buffersInUse int
}

// New returns a client.
func New(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = envKeychain{authn.DefaultKeychain}
	}
	if o.HostDirs == nil {
		o.HostDirs = defaultHostDirs()
	}
	if o.UserAgent == "" {
		o.UserAgent = fmt.Sprintf("teu (%s; %s)", runtime.GOOS, runtime.GOARCH)
	}
	return &Client{
		options:  o,
		insecure: parseInsecure(o.Insecure),
		verified: newTransport(nil),
		lax:      newLaxTransport(),
		sleep:    sleep,
		now:      time.Now,
		stall:    time.Minute,
		spread:   spreadOptions{after: segmentsAfter, size: segmentSize, fast: fastEnough},
		hosts:    make(map[string]*host),
		mirrored: make(map[string][]mirror),
	}
}

// Insecurely returns a client that is the same but for more registries that need no verified TLS.
func (c *Client) Insecurely(registries ...string) *Client {
	o := c.options
	o.Insecure = slices.Concat(o.Insecure, registries)
	return New(o)
}

// Repository is one repository of a registry. It is safe for concurrent use.
type Repository struct {
	// MountFrom, if set before the first Push, names repositories of the same registry
	// ("library/debian") that may hold the blob, so that it need not be sent.
	MountFrom func(digest.Digest) []string
	// Source, if set before the first Push, is where the bytes of a blob whose upload
	// broke are read again.
	Source content.Fetcher

	client  *Client
	host    *host
	mirrors []mirror // to read from, before host
	name    string   // "library/debian"
}

// Repository returns the repository of ref; a tag or digest in ref is not looked at.
func (c *Client) Repository(ref reference.Named) (*Repository, error) {
	domain, path := reference.Domain(ref), reference.Path(ref)
	if domain == "" || path == "" {
		return nil, fmt.Errorf("%q names no repository of a registry: %w", ref.String(), errdefs.ErrInvalidArgument)
	}
	h := c.host(domain)
	mirrors, err := c.mirrors(h.name)
	if err != nil {
		return nil, fmt.Errorf("mirrors of %s: %w", h.name, err)
	}
	return &Repository{client: c, host: h, mirrors: mirrors, name: path}, nil
}
