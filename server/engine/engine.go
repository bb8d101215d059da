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

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/server/engine/buildkit"
)

// Options are what a Server works with. All of Backend is required.
type Options struct {
	Backend Backend
	Version string // of teu
	Commit  string
	// Root is the directory of the store, told by GET /info.
	Root string
	// Experimental, Debug are told by GET /info only.
	Debug bool
	Log   *slog.Logger
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

// New returns the API over a backend.
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
