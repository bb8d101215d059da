package build

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/dockerfile"
)

// A Policy says whether a source may be used, which is an errdefs.ErrPermissionDenied if not, and may put another in
// its place; then it returns true. p is the platform that it is for, nil if it is for none. Several are asked at once.
type Policy func(ctx context.Context, sources Sources, s *pb.SourceOp, p *pb.Platform) (changed bool, err error)

// maxPolicy is how many bytes of rules there may be.
const maxPolicy = 1 << 20

// ReadPolicy reads rules in the form that buildctl and buildx take, JSON.
func ReadPolicy(f io.Reader) (Policy, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxPolicy {
		return nil, invalidf("source policy: more than %d bytes", maxPolicy)
	}
	rules, err := dockerfile.ParseSourcePolicy(b)
	if err != nil {
		return nil, err
	}
	return func(_ context.Context, _ Sources, s *pb.SourceOp, _ *pb.Platform) (bool, error) {
		return rules.Apply(s)
	}, nil
}

// Sources tells a policy what a source is, whatever the policy says about it.
type Sources interface {
	ResolveImage(ctx context.Context, name, ref string, o dockerfile.ImageOptions) (dockerfile.ImageConfig, error)
	DescribeSource(ctx context.Context, name string, s *pb.SourceOp) (dockerfile.SourceInfo, error)
}

// unasked is a run whose policy is not asked.
type unasked run

var _ Sources = (*unasked)(nil)

// permits are the definitions that the policy has been asked about, and what it made of them.
type permits struct {
	mu   sync.Mutex
	made map[*pb.Definition]*pb.Definition
}

func (p *permits) get(def *pb.Definition) (*pb.Definition, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	made, ok := p.made[def]
	return made, ok
}

func (p *permits) put(def, made *pb.Definition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made == nil {
		p.made = map[*pb.Definition]*pb.Definition{}
	}
	p.made[def], p.made[made] = made, made
}

// permit returns def with the sources that the policy puts into it. Everything that is solved has to come through here.
func (r *run) permit(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	if r.o.Policy == nil {
		return def, nil
	}
	if made, ok := r.permits.get(def); ok {
		return made, nil
	}
	made, err := graph.Rewrite(ctx, def, func(ctx context.Context, o *pb.Op) (bool, error) {
		return r.permitSource(ctx, o.GetSource(), o.Platform)
	})
	if err != nil {
		return nil, err
	}
	r.permits.put(def, made)
	return made, nil
}

func (r *run) permitSource(ctx context.Context, s *pb.SourceOp, p *pb.Platform) (changed bool, err error) {
	if r.o.Policy == nil {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return r.o.Policy(ctx, (*unasked)(r), s, p)
}

// permitImage returns what the policy makes of an image.
func (r *run) permitImage(ctx context.Context, ref string, o dockerfile.ImageOptions) (string, dockerfile.ImageOptions, error) {
	if r.o.Policy == nil {
		return ref, o, nil
	}
	s := &pb.SourceOp{Identifier: "docker-image://" + ref, Attrs: map[string]string{}}
	if o.Layout != "" {
		s.Identifier, s.Attrs[pb.AttrOCILayoutStoreID] = "oci-layout://"+ref, o.Layout
	}
	asked := s.Identifier
	var p *pb.Platform
	if o.Platform != nil {
		p = pb.PlatformFromSpec(*o.Platform)
	}
	if _, err := r.permitSource(ctx, s, p); err != nil {
		return "", o, err
	}
	scheme, after, _ := strings.Cut(s.Identifier, "://")
	if !strings.HasPrefix(asked, scheme+"://") {
		return "", o, &dockerfile.ReplacedError{Ref: ref, By: s.Identifier}
	}
	if o.Layout != "" {
		o.Layout = s.Attrs[pb.AttrOCILayoutStoreID]
	}
	return after, o, nil
}
