package buildkit

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/result"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/dockerfile"
)

// maxAttestations is how much a client may state of one image, and maxSubjects of what each.
const (
	maxAttestations = 100
	maxSubjects     = 1000
)

// promise tells the client what is to be stated of a result, by platforms.
func (b *bridge) promise(all map[string][]dockerfile.Attestation) (map[string]*gwpb.Attestations, error) {
	out := map[string]*gwpb.Attestations{}
	for id, list := range all {
		out[id] = &gwpb.Attestations{}
		for _, a := range list {
			ref, err := b.add(a.Definition)
			if err != nil {
				return nil, err
			}
			out[id].Attestation = append(out[id].Attestation, &gwpb.Attestation{
				Kind: gwpb.AttestationKind_Bundle, Ref: ref, Path: a.Dir, InTotoPredicateType: a.Kind,
				Metadata: map[string][]byte{result.AttestationReasonKey: []byte(result.AttestationReasonSBOM), result.AttestationSBOMCore: []byte(a.Core)},
			})
		}
	}
	return out, nil
}

// promised is the reverse of promise, and takes what the client states itself.
func (b *bridge) promised(all map[string]*gwpb.Attestations) (map[string][]dockerfile.Attestation, error) {
	var out map[string][]dockerfile.Attestation
	for id, list := range all {
		if n := len(list.GetAttestation()); n > maxAttestations {
			return nil, fmt.Errorf("%d attestations: %w", n, errdefs.ErrInvalidArgument)
		}
		for _, a := range list.GetAttestation() {
			made, err := b.attestation(a)
			if err != nil {
				return nil, fmt.Errorf("attestation of %s: %w", a.GetInTotoPredicateType(), err)
			}
			if out == nil {
				out = map[string][]dockerfile.Attestation{}
			}
			out[id] = append(out[id], made)
		}
	}
	return out, nil
}

func (b *bridge) attestation(a *gwpb.Attestation) (made dockerfile.Attestation, err error) {
	made.Kind, made.Core = a.GetInTotoPredicateType(), string(a.GetMetadata()[result.AttestationSBOMCore])
	made.Stated = string(a.GetMetadata()[result.AttestationReasonKey]) != result.AttestationReasonSBOM
	made.InlineOnly, _ = strconv.ParseBool(string(a.GetMetadata()[result.AttestationInlineOnlyKey]))
	if made.Definition, err = b.definition(a.GetRef().GetId()); err != nil {
		return made, err
	}
	if made.Definition == nil {
		return made, fmt.Errorf("without a ref: %w", errdefs.ErrInvalidArgument)
	}
	switch {
	case a.GetKind() == gwpb.AttestationKind_Bundle && len(a.InTotoSubjects) == 0:
		made.Dir = a.Path
		return made, nil
	case a.GetKind() == gwpb.AttestationKind_InToto && a.Path != "" && made.Kind != "":
		made.File = a.Path
	default:
		return made, fmt.Errorf("its form makes no sense: %w", errdefs.ErrInvalidArgument)
	}
	if len(a.InTotoSubjects) > maxSubjects {
		return made, fmt.Errorf("%d subjects: %w", len(a.InTotoSubjects), errdefs.ErrInvalidArgument)
	}
	for _, s := range a.InTotoSubjects {
		subject := dockerfile.Subject{Name: s.GetName(), Self: s.GetKind() == gwpb.InTotoSubjectKind_Self}
		for _, text := range s.GetDigest() {
			d, err := digest.Parse(text)
			if err != nil {
				return made, fmt.Errorf("digest %q: %w: %w", text, errdefs.ErrInvalidArgument, err)
			}
			subject.Digests = append(subject.Digests, d)
		}
		made.Subjects = append(made.Subjects, subject)
	}
	return made, nil
}
