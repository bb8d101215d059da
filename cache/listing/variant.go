package listing

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
)

// A Variant is the image for one platform behind a name.
type Variant struct {
	Target   ocispec.Descriptor // of its manifest
	Platform ocispec.Platform
	ID       digest.Digest // of its config; "" if the variant is not here
	Content  int64         // bytes of its blobs that are here
	Unpacked int64         // bytes of its layers on disk, whoever shares them
}

// Variants returns the images behind target in the order of the index, whether they are here or not.
func Variants(ctx context.Context, store *cache.Store, target ocispec.Descriptor) ([]Variant, error) {
	list := []ocispec.Descriptor{target}
	if content.IsIndex(target.MediaType) {
		children, err := content.Children(ctx, store.Content, target)
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(children, func(d ocispec.Descriptor) bool {
			return content.IsAttestation(d) || !content.IsManifest(d.MediaType)
		})
	}
	var out []Variant
	for _, d := range list {
		v, err := variant(ctx, store, d)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func variant(ctx context.Context, store *cache.Store, d ocispec.Descriptor) (Variant, error) {
	v := Variant{Target: d}
	if d.Platform != nil {
		v.Platform = *d.Platform
	}
	img, err := content.Resolve(ctx, store.Content, d, content.Host()) // a manifest: there is no choice
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.ID = img.Manifest.Config.Digest
	if d.Platform == nil {
		v.Platform = img.Platform()
	}
	for _, b := range slices.Concat([]ocispec.Descriptor{d, img.Manifest.Config}, img.Manifest.Layers) {
		if info, err := store.Content.Stat(ctx, b.Digest); err == nil {
			v.Content += info.Size
		}
	}
	for _, diffID := range img.Config.RootFS.DiffIDs {
		if l, err := store.Layers.ByDiffID(diffID); err == nil {
			v.Unpacked += l.Size
		}
	}
	return v, nil
}

// FindFor is Find for the image of one platform; a nil p is the best for this machine.
func FindFor(ctx context.Context, store *cache.Store, ref string, p *ocispec.Platform) (image.Image, content.Image, error) {
	if p == nil {
		return Find(ctx, store, ref)
	}
	record, err := Lookup(ctx, store, ref)
	if err != nil {
		return record, content.Image{}, err
	}
	img, err := For(ctx, store, ref, record.Target, *p)
	return record, img, err
}

// For returns the image for the platform p of those that target, which ref means, stands for.
func For(ctx context.Context, store *cache.Store, ref string, target ocispec.Descriptor, p ocispec.Platform) (content.Image, error) {
	img, err := content.Resolve(ctx, store.Content, target, p)
	if err == nil && content.MatchPlatform(p, img.Platform()) > 0 {
		return img, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return img, fmt.Errorf("image %s: %w", ref, err)
	}
	return img, Worded(errdefs.ErrNotFound, "image with reference %s was found but does not provide the specified platform (%s)",
		ref, content.PlatformString(p))
}
