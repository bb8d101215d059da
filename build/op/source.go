package op

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

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
		o := newImageOp(e, v, ref, s.Attrs)
		o.inLayout = true
		return o, nil
	case "local":
		if s.Attrs[pb.AttrMetadataTransfer] != "" {
			return nil, fmt.Errorf("local directory %q without the content of its files: %w", ref, errdefs.ErrNotImplemented)
		}
		return &localOp{e, ref, s.Attrs}, nil
	case "http", "https":
		return e.httpOp(s.Identifier, s.Attrs)
	case "git":
		return e.gitOp(ref, s.Attrs)
	}
	return nil, fmt.Errorf("sources of the kind %s:// are not supported: %w", scheme, errdefs.ErrNotImplemented)
}

// A SourceInfo is what is known of a source without making its filesystem.
type SourceInfo struct {
	Ref      string        // of git: refs/heads/main, say
	Commit   string        // of git: what the ref names, a commit or a tag that is an object
	Tagged   string        // of git: the commit that such a tag is of
	Object   []byte        // of git: the commit as git stores it
	Tag      []byte        // of git: the tag as git stores it
	Digest   digest.Digest // of a download
	Filename string        // of a download
	Modified *time.Time    // of a download: Last-Modified, if the server said it
}

// Describe finds out about a source in git or on the web; of other sources there is nothing to know.
func (e *Env) Describe(ctx context.Context, s *pb.SourceOp) (SourceInfo, error) {
	scheme, ref, _ := strings.Cut(s.Identifier, "://")
	switch scheme {
	case "git":
		o, err := e.gitOp(ref, s.Attrs)
		if err != nil {
			return SourceInfo{}, err
		}
		return o.describe(ctx)
	case "http", "https":
		o, err := e.httpOp(s.Identifier, s.Attrs)
		if err != nil {
			return SourceInfo{}, err
		}
		d, err := o.fetch(ctx)
		if err != nil {
			return SourceInfo{}, err
		}
		info := SourceInfo{Digest: d.Digest, Filename: d.Filename}
		if t, err := http.ParseTime(d.Modified); err == nil {
			info.Modified = &t
		}
		return info, nil
	}
	return SourceInfo{}, nil
}
