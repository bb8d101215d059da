// Package engine serves Docker's Engine REST API over teu's core, so that the docker
// client, compose, testcontainers and every other client of that API work unchanged.
//
// It owns no state of containers, images, networks or volumes: a handler decodes a request,
// makes a call of the core that a command of teu makes too, and encodes the answer. So
// commands and clients see the same objects, and the death of the server harms nothing.
// All it remembers is who is connected to it at this moment (see lives).
//
// The API is described by moby's api/swagger.yaml and its CHANGELOG.md; comments name
// sections of these.
package engine

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/server/engine/buildkit"
)

// Options are what a Server works with: the core, all of which is required, and what it tells of itself.
type Options struct {
	Containers *runner.Engine
	Store      *cache.Store
	// Registry returns a client of registries that has the credentials of keys.
	Registry func(keys registry.Keychain) *registry.Client
	// Images returns the images of this machine, pulled and pushed by such a client; nil
	// will do for what needs none.
	Images func(*registry.Client) *library.Library
	// Builder returns a builder that pulls with such a client.
	Builder func(*registry.Client) (*build.Builder, error)

	Version string // of teu
	Root    string // directory of the store, told by GET /info
	Debug   bool   // told by GET /info
	Log     *slog.Logger
	// InjectCDI gives a container what its devices with CDI names need; nil: there are none.
	InjectCDI func(*runner.Options) error
	// CDI tells where devices with CDI names are looked up, and the names there are; nil: there are none.
	CDI func() (dirs, names []string)
}

// Server is the API. It is safe for concurrent use.
type Server struct {
	Options
	routes    []route
	lives     lives
	uploads   uploads
	builds    sync.Map // context.CancelFunc by the ID a client gave its build
	started   time.Time
	rest      rest
	followers followers
	unheard   sync.Map // context.Context by the ID of a command, done when its client has been sent all it said
	buildKit  func() (*buildkit.Server, error)

	closing   context.Context // done when streams that have no end must end
	close     context.CancelFunc
	streaming sync.WaitGroup // sessions that outlive the request that made them
}

// New returns the API.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o, started: time.Now(), rest: newRest()}
	s.closing, s.close = context.WithCancel(context.Background())
	s.lives.all = map[string]*life{}
	s.routes = s.table()
	s.buildKit = s.newBuildKit()
	return s
}

// Close ends what would go on for ever: followed logs, events, waits and attached clients.
// Containers are not touched.
func (s *Server) Close() {
	s.close()
	s.rest.end()
	s.streaming.Wait()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, server: s, version: newestVersion}
	defer s.rest.delay()
	defer s.recovered(w, r)
	h := w.Header()
	h.Set("Server", "teu/"+s.Version+" (linux)")
	h.Set("Api-Version", newestVersion.String())
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	handle, err := s.route(r)
	if err == nil {
		err = handle(w, r)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

// recovered turns a panic of a handler into an answer; the server goes on.
func (s *Server) recovered(w http.ResponseWriter, r *request) {
	cause := recover()
	switch {
	case cause == nil:
	case cause == http.ErrAbortHandler:
		panic(cause)
	default:
		s.Log.Error("a request made the server panic", "method", r.Method, "path", r.URL.Path, "cause", cause)
		writeJSON(w, http.StatusInternalServerError, errorBody{Message: "internal error, see the log of the server"})
	}
}
