// Package buildkit serves BuildKit's own API, by which today's docker build, buildx and compose build: gRPC
// over connections that an engine hands over, as dockerd does.
//
//	client                                  Server
//	POST /session  -- h2c, roles swapped --> files, credentials, secrets and agents of the client
//	POST /grpc     -- h2c -----------------> Control.Solve      waits for what to build, builds, exports
//	                                         LLBBridge.*        the client is the frontend: asks, and returns
//	                                         Control.Status     how it goes
//
// Clients that speak HTTP/2 from the first byte (buildctl, buildx's driver "remote") need neither request: they call
// the same services, and Control.Session instead of POST /session.
//
// Each Solve is one build of package build. Nothing of BuildKit's solver, cache or worker is here.
package buildkit

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/registry"
)

// Options are what a Server works with. All is required.
type Options struct {
	// Builder returns a builder that asks for the credentials of registries.
	Builder func(ask func(ctx context.Context, domain string) (registry.Credential, error)) (*build.Builder, error)
	// Gateway returns the address of this machine where the commands of RUN see it; zero: there is none.
	Gateway func(ctx context.Context) (netip.Addr, error)
	Root    string // of the store, below which is the history of builds
	Version string // of teu
}

// Server is the API. It is safe for concurrent use, and has nothing running when nobody is connected.
type Server struct {
	Options
	controlapi.UnimplementedControlServer
	sessions *session.Manager
	jobs     jobs
	history  *history
	requests *grpc.Server // of ServeHTTP
}

// New returns a Server.
func New(o Options) (*Server, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	s := &Server{Options: o, sessions: sessions, jobs: jobs{all: map[string]*job{}}, history: newHistory(o.Root)}
	s.requests = s.newGRPC()
	return s, nil
}

// maxMessage is how long a message of a client may be. A definition is the largest.
const maxMessage = 16 << 20

// newGRPC returns a server of all services.
func (s *Server) newGRPC() *grpc.Server {
	g := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, unaryRecovered),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor, streamRecovered),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true), grpc.ConnectionTimeout(20*time.Second),
	)
	controlapi.RegisterControlServer(g, s)
	gwpb.RegisterLLBBridgeServer(g, bridges{jobs: &s.jobs})
	contentapi.RegisterContentServer(g, blobs{server: s})
	grpc_health_v1.RegisterHealthServer(g, health.NewServer())
	return g
}

// ServeHTTP answers a call that came as a request of HTTP/2.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.requests.ServeHTTP(w, r) }

// Serve answers the client behind conn until it goes, or ctx ends.
func (s *Server) Serve(ctx context.Context, conn net.Conn) {
	g := s.newGRPC()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := newOneConn(conn)
	_ = g.Serve(l) // until Accept finds that the client is gone
	g.Stop()
}

// Attach lets builds use what the client behind conn offers, until it goes or ctx ends. header is that of
// its request.
func (s *Server) Attach(ctx context.Context, conn net.Conn, header map[string][]string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.sessions.HandleConn(ctx, &watchedConn{Conn: conn, gone: cancel}, header)
}

// CheckSession says whether a session with that header may come.
func (s *Server) CheckSession(ctx context.Context, header http.Header) error {
	id := header.Get("X-Docker-Expose-Session-Uuid")
	if id == "" {
		return fmt.Errorf("a session without an ID: %w", errdefs.ErrInvalidArgument)
	}
	if c, err := s.sessions.Get(ctx, id, true); err == nil && c != nil {
		return fmt.Errorf("session %s already exists: %w", id, errdefs.ErrAlreadyExists)
	}
	return nil
}

// A watchedConn tells when the other side has gone. Whether it answers is asked every few seconds only.
type watchedConn struct {
	net.Conn
	gone func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.gone()
	}
	return n, err
}

// A oneConn is a listener at which one client comes.
type oneConn struct {
	first chan net.Conn
	gone  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newOneConn(conn net.Conn) *oneConn {
	l := &oneConn{first: make(chan net.Conn, 1), gone: make(chan struct{}), addr: conn.LocalAddr()}
	l.first <- &closedConn{Conn: conn, l: l}
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.first:
		return c, nil
	case <-l.gone:
		return nil, io.EOF
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.gone) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }

type closedConn struct {
	net.Conn
	l *oneConn
}

func (c *closedConn) Close() error {
	c.l.Close()
	return c.Conn.Close()
}
