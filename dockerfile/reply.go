package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
)

// A Reply is what the frontend said, in BuildKit's own form: one definition, or several by the IDs of
// their platforms, and what belongs to them.
type Reply struct {
	Metadata map[string][]byte
	Ref      *pb.Definition            // nil: the empty filesystem
	Refs     map[string]*pb.Definition // instead of Ref
	// Attestations are what is to be stated of each, by the IDs of the platforms.
	Attestations map[string][]Attestation
	// Frontend and Attrs are what was asked; "" and nil if a definition was there already.
	Frontend string
	Attrs    map[string]string
	question string // that Metadata answers
	wrong    error  // see [Result]
}

// Ask runs the frontend as Compile does.
func Ask(ctx context.Context, b Backend, o Options) (*Reply, error) {
	attrs := maps.Clone(o.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	if source := attrs["source"]; source != "" { // a caller that chose the frontend itself
		if err := checkFrontend(source); err != nil {
			return nil, err
		}
	}
	g := newGateway(b, o.Host, attrs)
	g.inputs = o.Inputs
	if o.Session != "" {
		g.session = o.Session
	}
	res, err := g.build(ctx)
	if err != nil {
		return nil, locate(err)
	}
	reply := &Reply{Metadata: res.Metadata, Frontend: "dockerfile.v0", Attrs: o.Attrs, question: g.attrs["requestid"]}
	if attrs["source"] != "" { // of a frontend that was to be run by another, which is not what happened
		reply.Attrs = maps.Clone(o.Attrs)
		delete(reply.Attrs, "source")
		delete(reply.Attrs, "cmdline")
	}
	if reply.question == lint.SubrequestLintDefinition.Name {
		if err := rename(res.Metadata, o.Name); err != nil {
			return nil, err
		}
		reply.wrong = wrong(res.Metadata, o.Name)
	}
	reply.Ref = definition(res.Ref)
	if len(res.Refs) > 0 {
		reply.Refs = map[string]*pb.Definition{}
		for id, ref := range res.Refs {
			reply.Refs[id] = definition(ref)
		}
	}
	for id, list := range res.Attestations {
		for _, a := range list {
			if a.Kind != gwpb.AttestationKind_Bundle {
				return nil, fmt.Errorf("an attestation that is no directory: %w", errdefs.ErrNotImplemented)
			}
			if reply.Attestations == nil {
				reply.Attestations = map[string][]Attestation{}
			}
			reply.Attestations[id] = append(reply.Attestations[id], Attestation{
				Definition: definition(a.Ref), Dir: a.Path, Kind: a.InToto.PredicateType, Core: string(a.Metadata[result.AttestationSBOMCore]),
			})
		}
	}
	return reply, nil
}

func definition(ref client.Reference) *pb.Definition {
	if ref, ok := ref.(*reference); ok && ref != nil {
		return ref.def
	}
	return nil
}

// Result takes r apart.
func (r *Reply) Result() (*Result, error) {
	if r.question != "" {
		return &Result{Answer: r.Metadata, Wrong: r.wrong}, nil
	}
	list, err := exptypes.ParsePlatforms(r.Metadata)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	out := &Result{Index: len(r.Refs) > 0, Frontend: r.Frontend, Attrs: r.Attrs}
	for _, p := range list.Platforms {
		img := Image{
			Platform:     p.Platform,
			Config:       exptypes.ParseKey(r.Metadata, exptypes.ExporterImageConfigKey, &p),
			BaseConfig:   exptypes.ParseKey(r.Metadata, exptypes.ExporterImageBaseConfigKey, &p),
			Definition:   &pb.Definition{},
			Attestations: r.Attestations[p.ID],
		}
		def, ok := r.Refs[p.ID]
		if !ok && len(r.Refs) > 0 {
			return nil, fmt.Errorf("there is no result for %s: %w", p.ID, errdefs.ErrInvalidArgument)
		}
		if !ok {
			def = r.Ref
		}
		if def != nil {
			img.Definition = def
		}
		if s := exptypes.ParseKey(r.Metadata, commonexptypes.ExporterEpochKey, &p); len(s) > 0 {
			sec, err := strconv.ParseInt(string(s), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
			}
			t := time.Unix(sec, 0).UTC()
			img.Epoch = &t
		}
		out.Images = append(out.Images, img)
	}
	return out, nil
}
