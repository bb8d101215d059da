package op

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// A Chain is what leads from a reference to what is stated of one image behind it, and to who signed that. What there is
// none of is empty.
type Chain struct {
	Root, Image, Statements, Signature digest.Digest
	Blobs                              map[digest.Digest]Blob // all of these but Image, what Signature consists of, and statements
}

// A Blob is a small one, read.
type Blob struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// Types of signatures, the better first, as in github.com/moby/policy-helpers, image/resolve.go.
var signatureTypes = []string{"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.artifact.sig.v1+json"}

// Chain returns the chain of the image that ResolveImage has found, with the statements whose predicates are of these kinds. It is
// nil where nothing can be stated: the image is in no index.
func (e *Env) Chain(ctx context.Context, img Image, kinds []string) (*Chain, error) {
	if img.Target.MediaType != ocispec.MediaTypeImageIndex {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(img.Ref)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w: %w", img.Ref, errdefs.ErrInvalidArgument, err)
	}
	r := &chainReader{chain: Chain{Root: img.Target.Digest, Image: img.Descriptor.Digest, Blobs: map[digest.Digest]Blob{}}, from: e.Store.Content}
	if e.Registry != nil {
		repo, err := e.Registry(named)
		if err != nil {
			return nil, err
		}
		r.from = e.Store.Keep(repo)
		r.referrers, _ = repo.(referrers)
	}
	if err := r.read(ctx, img.Target, kinds); err != nil {
		return nil, fmt.Errorf("what is stated of %s: %w", reference.FamiliarString(named), err)
	}
	return &r.chain, nil
}

// referrers are what knows which manifests are about another.
type referrers interface {
	Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error)
}

// maxChain is how many bytes the blobs of a chain may have together: they are kept in memory, and sent in one message.
const maxChain = 12 << 20

type chainReader struct {
	size      int64
	chain     Chain
	from      content.Fetcher
	referrers referrers // nil: nobody
}

func (r *chainReader) read(ctx context.Context, root ocispec.Descriptor, kinds []string) error {
	var index ocispec.Index
	if err := r.blob(ctx, root, &index); err != nil {
		return err
	}
	i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" && content.AboutOf(d) == r.chain.Image
	})
	if i < 0 {
		return nil
	}
	stated := index.Manifests[i]
	r.chain.Statements = stated.Digest
	var manifest ocispec.Manifest
	if err := r.blob(ctx, stated, &manifest); err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		if !slices.Contains(kinds, l.Annotations["in-toto.io/predicate-type"]) {
			continue
		}
		if err := r.blob(ctx, l, nil); err != nil {
			return err
		}
	}
	return r.signature(ctx, stated.Digest)
}

// signature finds out who signed the statements.
func (r *chainReader) signature(ctx context.Context, stated digest.Digest) error {
	if r.referrers == nil {
		return nil
	}
	all, err := r.referrers.Referrers(ctx, stated)
	if err != nil {
		return fmt.Errorf("signatures: %w", err)
	}
	for _, kind := range signatureTypes {
		i := slices.IndexFunc(all, func(d ocispec.Descriptor) bool { return d.ArtifactType == kind })
		if i < 0 {
			continue
		}
		r.chain.Signature = all[i].Digest
		var manifest ocispec.Manifest
		if err := r.blob(ctx, all[i], &manifest); err != nil {
			return err
		}
		for _, l := range manifest.Layers {
			if err := r.blob(ctx, l, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// blob reads d into the chain, and as JSON into to unless that is nil.
func (r *chainReader) blob(ctx context.Context, d ocispec.Descriptor, to any) error {
	if r.size += d.Size; r.size > maxChain {
		return fmt.Errorf("more than %d bytes: %w", int64(maxChain), errdefs.ErrResourceExhausted)
	}
	data, err := content.ReadAll(ctx, r.from, d)
	if err != nil {
		return err
	}
	r.chain.Blobs[d.Digest] = Blob{d, data}
	if to == nil {
		return nil
	}
	if err := content.Unmarshal(data, to); err != nil {
		return fmt.Errorf("manifest %s: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	return nil
}
