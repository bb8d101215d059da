package dockerfile

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	dockerref "github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/attestations"
	"github.com/moby/buildkit/frontend/attestations/sbom"
	"github.com/moby/buildkit/solver/result"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// spdx is the type of the predicates that say what is in an image.
const spdx = "https://spdx.dev/Document"

// Scan has r tell what is in its images, by the scanner that settings choose as attest:sbom does, unless r tells it already: the
// Dockerfile's frontend sees to it itself, others need not. attrs are those that were asked with. An empty image is not scanned.
func (r *Reply) Scan(ctx context.Context, b Backend, host ocispec.Platform, settings string, attrs map[string]string) error {
	for _, list := range r.Attestations {
		for _, a := range list {
			if a.Kind == spdx {
				return nil
			}
		}
	}
	if r.question != "" {
		return nil
	}
	parsed, err := attestations.Parse(map[string]string{"attest:" + attestations.KeyTypeSbom: settings})
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	params := parsed[attestations.KeyTypeSbom]
	named, err := dockerref.ParseNormalizedNamed(params["generator"])
	if err != nil {
		return fmt.Errorf("generator=%s: %w: %w", params["generator"], err, errdefs.ErrInvalidArgument)
	}
	delete(params, "generator")
	opt := sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: attrs["image-resolve-mode"], Platform: &host}}
	scanner, err := sbom.CreateSBOMScanner(ctx, newGateway(b, host, nil), dockerref.TagNameOnly(named).String(), host, opt, params)
	if err != nil {
		return fmt.Errorf("scanner: %w", err)
	}
	list, err := exptypes.ParsePlatforms(r.Metadata)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	var opts []llb.ConstraintsOpt
	if stages, ok := attrs["no-cache"]; ok && stages == "" {
		opts = append(opts, llb.IgnoreCache)
	}
	for _, p := range list.Platforms {
		def := r.Ref
		if len(r.Refs) > 0 {
			def = r.Refs[p.ID]
		}
		if len(def.GetDef()) == 0 {
			continue
		}
		scanned, err := llb.NewDefinitionOp(def)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		att, err := scanner(ctx, p.ID, llb.NewState(scanned), nil, opts...)
		if err != nil {
			return err
		}
		found, err := att.Ref.Marshal(ctx)
		if err != nil {
			return err
		}
		if r.Attestations == nil {
			r.Attestations = map[string][]Attestation{}
		}
		r.Attestations[p.ID] = append(r.Attestations[p.ID], Attestation{
			Definition: found.ToPB(), Dir: att.Path, Kind: att.InToto.PredicateType, Core: string(att.Metadata[result.AttestationSBOMCore]),
		})
	}
	return nil
}
