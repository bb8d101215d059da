package op

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

// sourceOp returns the operation of a source, by the scheme of its identifier.
func (e *Env) sourceOp(v *graph.Vertex, s *pb.SourceOp) (solver.Op[Result], error) {
	scheme, ref, ok := strings.Cut(s.Identifier, "://")
	if !ok {
		return nil, fmt.Errorf("source %q has no scheme: %w", s.Identifier, errdefs.ErrInvalidArgument)
	}
	switch scheme {
	case "docker-image":
		return newImageOp(e, v, ref, s.Attrs), nil
	case "oci-layout":
		dir, ok := e.OCILayouts[s.Attrs[pb.AttrOCILayoutStoreID]]
		if !ok {
			return nil, fmt.Errorf("OCI layout %q: %w", s.Attrs[pb.AttrOCILayoutStoreID], errdefs.ErrNotFound)
		}
		o := newImageOp(e, v, ref, s.Attrs)
		o.layout = dir
		return o, nil
	case "local":
		return &localOp{e, ref, s.Attrs}, nil
	case "http", "https":
		return e.httpOp(s.Identifier, s.Attrs)
	case "git":
		return e.gitOp(ref, s.Attrs)
	}
	return nil, fmt.Errorf("sources of the kind %s:// are not supported: %w", scheme, errdefs.ErrNotImplemented)
}
