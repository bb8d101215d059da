package transfer

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
)

// Options change how Copy works.
type Options struct {
	All      bool              // every platform, and what refers to the image: signatures, SBOMs
	Platform *ocispec.Platform // of the image wanted out of an index; nil: the host's
	Progress content.Progress
}

// source is a place to copy from.
type source interface {
	content.Fetcher
	resolve(ctx context.Context) (ocispec.Descriptor, error)
	// referrers lists the manifests that name d as their subject.
	referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error)
	close() error
}

// target is a place to copy to.
type target interface {
	// put copies root and all it refers to from src, and gives it the name of the place.
	put(ctx context.Context, src source, root ocispec.Descriptor, o content.CopyOptions) error
	// attach copies d, which refers to an image that was put.
	attach(ctx context.Context, src source, d ocispec.Descriptor, o content.CopyOptions) error
	// finish is called when all of that went well.
	finish(ctx context.Context) error
}

// Copy copies the image at src to dst and returns what it copied: with All the descriptor at src, else the
// manifest of one platform.
func Copy(ctx context.Context, c *registry.Client, dst, src Place, o Options) (_ ocispec.Descriptor, err error) {
	from, err := openSource(ctx, c, src)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copying from %s: %w", src, err)
	}
	defer func() { err = errors.Join(err, from.close()) }()
	root, err := from.resolve(ctx)
	if err == nil && !o.All {
		root, err = onePlatform(ctx, from, root, o.Platform)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copying from %s: %w", src, err)
	}
	to, err := openTarget(c, dst, src)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copying to %s: %w", dst, err)
	}
	opts := content.CopyOptions{Progress: o.Progress}
	if err := to.put(ctx, from, root, opts); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copying %s to %s: %w", src, dst, err)
	}
	if o.All {
		if err := copyReferrers(ctx, to, from, root, opts, 0, map[digest.Digest]int{}); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("copying what refers to %s: %w", src, err)
		}
	}
	if err := to.finish(ctx); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copying %s to %s: %w", src, dst, err)
	}
	return root, nil
}

// onePlatform narrows root to the manifest for p.
func onePlatform(ctx context.Context, f content.Fetcher, root ocispec.Descriptor, p *ocispec.Platform) (ocispec.Descriptor, error) {
	if !content.IsIndex(root.MediaType) {
		return root, nil
	}
	platform := content.Host()
	if p != nil {
		platform = *p
	}
	img, err := content.Resolve(ctx, f, root, platform)
	if err != nil {
		return root, err
	}
	d := img.Descriptor
	d.Platform, d.Annotations = nil, nil
	return d, nil
}

// copyReferrers copies what refers to d, to the manifests in it, and to what was copied that way. What is in done, with
// the depth it was found at, it passes by.
func copyReferrers(ctx context.Context, to target, from source, d ocispec.Descriptor, o content.CopyOptions, depth int, done map[digest.Digest]int) error {
	const deepest = 4 // a signature of an SBOM of a platform of an image
	if depth > deepest || !content.IsIndex(d.MediaType) && !content.IsManifest(d.MediaType) {
		return nil
	}
	if before, again := done[d.Digest]; again && before <= depth {
		return nil
	}
	done[d.Digest] = depth
	list, err := from.referrers(ctx, d)
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := to.attach(ctx, from, r, o); err != nil {
			return err
		}
		if err := copyReferrers(ctx, to, from, r, o, depth+1, done); err != nil {
			return err
		}
	}
	if !content.IsIndex(d.MediaType) {
		return nil
	}
	children, err := content.Children(ctx, from, d)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := copyReferrers(ctx, to, from, child, o, depth+1, done); err != nil {
			return err
		}
	}
	return nil
}

// remote is a repository of a registry.
type remote struct {
	*registry.Repository
	ref reference.Named
}

func openRemote(c *registry.Client, p Place) (*remote, error) {
	repo, err := c.Repository(p.Ref)
	return &remote{repo, p.Ref}, err
}

func (r *remote) what() string {
	if d, ok := r.ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	return r.ref.(reference.Tagged).Tag() // ParseDockerRef has seen to it
}

func (r *remote) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	return r.Resolve(ctx, r.what())
}

func (r *remote) referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return r.Referrers(ctx, d.Digest)
}

func (r *remote) close() error { return nil }

// remoteTarget is a repository that takes an image.
type remoteTarget struct{ *remote }

func (r remoteTarget) put(ctx context.Context, src source, root ocispec.Descriptor, o content.CopyOptions) error {
	if d, ok := r.ref.(reference.Digested); ok && d.Digest() != root.Digest {
		return fmt.Errorf("the image is %s: %w", root.Digest, errdefs.ErrInvalidArgument)
	}
	r.Source = src
	if from, ok := src.(*remote); ok && reference.Domain(from.ref) == reference.Domain(r.ref) {
		r.MountFrom = func(digest.Digest) []string { return []string{reference.Path(from.ref)} }
	}
	if err := content.Copy(ctx, r, src, root, o); err != nil {
		return err
	}
	if _, ok := r.ref.(reference.Digested); ok {
		return nil
	}
	manifest, err := content.ReadAll(ctx, src, root)
	if err != nil {
		return err
	}
	return r.Tag(ctx, root, r.what(), manifest)
}

func (r remoteTarget) attach(ctx context.Context, src source, d ocispec.Descriptor, o content.CopyOptions) error {
	if err := content.Copy(ctx, r, src, d, o); err != nil {
		return err
	}
	return r.Refer(ctx, src, d)
}

func (r remoteTarget) finish(context.Context) error { return nil }
