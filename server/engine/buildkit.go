package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/server/engine/buildkit"
)

// newBuildKit returns what makes BuildKit's API, which is not there before the first wants it.
func (s *Server) newBuildKit() func() (*buildkit.Server, error) {
	return sync.OnceValues(func() (*buildkit.Server, error) {
		return buildkit.New(buildkit.Options{
			Builder: func(ask func(context.Context, string) (registry.Credential, error)) (*build.Builder, error) {
				return s.Builder(s.Registry(registry.Asked(ask)))
			},
			Gateway: s.stepGateway,
			Root:    s.Root,
			Version: s.Version,
		})
	})
}

// stepGateway returns the address of this machine in the network of builds, which is the default one.
func (s *Server) stepGateway(ctx context.Context) (netip.Addr, error) {
	n, err := s.Containers.InspectNetwork(ctx, "bridge")
	if err != nil {
		return netip.Addr{}, err
	}
	for _, c := range n.IPAM.Config {
		if c.Gateway.IsValid() {
			return c.Gateway, nil
		}
	}
	return netip.Addr{}, nil
}

// grpc answers POST /grpc: the connection becomes one of gRPC.
func (s *Server) grpc(w http.ResponseWriter, r *request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	bk, err := s.buildKit()
	if err != nil {
		return err
	}
	return upgrade(w, r, func(ctx context.Context, conn net.Conn) { bk.Serve(ctx, conn) })
}

// isCall says whether a request is a call of gRPC, for which HTTP/2 has been chosen before the first byte.
func isCall(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// call answers a call of BuildKit's API.
func (s *Server) call(w http.ResponseWriter, r *request) error {
	bk, err := s.buildKit()
	if err != nil {
		return err
	}
	ctx, cancel := r.stream()
	defer cancel()
	bk.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// session answers POST /session: the connection becomes one of gRPC, at which the client serves.
func (s *Server) session(w http.ResponseWriter, r *request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	bk, err := s.buildKit()
	if err != nil {
		return err
	}
	if err := bk.CheckSession(r.Context(), r.Header); err != nil {
		return err
	}
	return upgrade(w, r, func(ctx context.Context, conn net.Conn) {
		_ = bk.Attach(ctx, conn, r.Header) // it has no answer any more
	})
}

// checkUpgrade says whether a client asks for the one protocol there is.
func checkUpgrade(r *request) error {
	switch proto := r.Header.Get("Upgrade"); proto {
	case "":
		return invalid("no upgrade proto in request")
	case "h2c":
		return nil
	default:
		return invalid("protocol %s not supported", proto)
	}
}

// upgrade takes the connection over for HTTP/2 without TLS (RFC 7540, 3.2, but the client's settings come
// in its preface only, as with dockerd), and has it served.
func upgrade(w http.ResponseWriter, r *request, serve func(context.Context, net.Conn)) error {
	r.keepOn()
	h, err := takeOver(w)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(h.Conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		h.Close()
		return errClientGone
	}
	ctx, cancel := r.stream()
	defer cancel()
	h.started = true // HTTP/2 has frames of its own
	serve(ctx, h)
	return nil
}
