package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
)

// An image that was built here has layers that are only unpacked: its manifest calls them by their
// diffIDs, as plain tars that are not in Content. Compressing them waits until the image is to leave
// this machine, which most never do.

// PlainLayer returns what stands in a manifest for the sealed layer l without making a blob: the
// gzip blob that is there already, or the plain tar, which Portable can make.
func (s *Store) PlainLayer(ctx context.Context, l layer.Layer) (ocispec.Descriptor, error) {
	if d, ok, err := s.compressed(ctx, l, "gzip", ocispec.MediaTypeImageLayerGzip); ok || err != nil {
		return d, err
	}
	if l.TarSize == 0 { // it came from a tar, or was sealed by an older teu
		return s.CompressLayer(ctx, l.ID, ocispec.MediaTypeImageLayerGzip)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.DiffID, Size: l.TarSize}, nil
}

// Portable returns the image of target with all layers as blobs: itself, or one like it whose layers
// that were only unpacked are compressed to mediaType. What is missing of an index stays missing.
// The caller holds a pin.
func (s *Store) Portable(ctx context.Context, target ocispec.Descriptor, mediaType string) (ocispec.Descriptor, error) {
	p := portable{s: s, mediaType: mediaType, made: map[digest.Digest]ocispec.Descriptor{}}
	return p.target(ctx, target)
}

// Complete is Portable that also replaces the blobs of pulled layers that are not here: a layer that was
// unpacked already, of an image that has it compressed in another way, is not fetched, and a store that is
// held to a size drops blobs. What replaces them is the layer as another blob, so the result has another
// digest than what was pulled. The caller holds a pin.
func (s *Store) Complete(ctx context.Context, target ocispec.Descriptor, mediaType string) (ocispec.Descriptor, error) {
	p := portable{s: s, mediaType: mediaType, pulled: true, made: map[digest.Digest]ocispec.Descriptor{}}
	return p.target(ctx, target)
}

type portable struct {
	s         *Store
	mediaType string
	pulled    bool                                 // layers that are not plain, too
	made      map[digest.Digest]ocispec.Descriptor // of the indexes in indexes
}

func (p *portable) target(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	switch {
	case content.IsIndex(d.MediaType):
		return p.index(ctx, d, 0)
	case content.IsManifest(d.MediaType):
		return p.manifest(ctx, d)
	}
	return d, nil
}

// once is index for an index that others may list too.
func (p *portable) once(ctx context.Context, d ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	if made, again := p.made[d.Digest]; again {
		d.Digest, d.Size = made.Digest, made.Size
		return d, nil
	}
	made, err := p.index(ctx, d, depth)
	if err == nil {
		p.made[d.Digest] = made
	}
	return made, err
}

func (p *portable) index(ctx context.Context, d ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	const deepest = 8 // as content.Copy
	if depth > deepest {
		return d, fmt.Errorf("index %s: more than %d indexes in each other: %w", d.Digest, deepest, errdefs.ErrResourceExhausted)
	}
	data, err := content.ReadAll(ctx, p.s.Content, d)
	if err != nil {
		return d, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return d, fmt.Errorf("index %s: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	changed := map[digest.Digest]digest.Digest{}
	for i, child := range index.Manifests {
		made := child
		switch {
		case content.IsAttestation(child):
			continue
		case content.IsIndex(child.MediaType):
			made, err = p.once(ctx, child, depth+1)
		case content.IsManifest(child.MediaType):
			made, err = p.manifest(ctx, child)
		}
		if errdefs.IsNotFound(err) {
			continue // of another platform, and not here
		}
		if err != nil {
			return d, err
		}
		if made.Digest != child.Digest {
			changed[child.Digest] = made.Digest
			index.Manifests[i].Digest, index.Manifests[i].Size = made.Digest, made.Size
		}
	}
	if len(changed) == 0 {
		return d, nil
	}
	// What is stated of an image is not stated of one like it.
	index.Manifests = slices.DeleteFunc(index.Manifests, func(child ocispec.Descriptor) bool {
		_, ok := changed[content.AboutOf(child)]
		return ok && content.IsAttestation(child)
	})
	return p.put(ctx, d, index)
}

func (p *portable) manifest(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	img, err := content.Resolve(ctx, p.s.Content, d, content.Host())
	if errdefs.IsFailedPrecondition(err) {
		return d, nil // an artifact, which has no unpacked layers
	}
	if err != nil {
		return d, err
	}
	m := img.Manifest
	changed := false
	for i, l := range m.Layers {
		if i >= len(img.Config.RootFS.DiffIDs) || content.IsForeign(l.MediaType) {
			continue
		}
		diffID := img.Config.RootFS.DiffIDs[i]
		if l.Digest != diffID && !p.pulled {
			continue // not plain
		}
		if ok, err := p.s.Content.Exists(ctx, l); ok || err != nil {
			if err != nil {
				return d, err
			}
			continue
		}
		found, err := p.s.Layers.ByDiffID(diffID)
		if err != nil {
			return d, err
		}
		mediaType := p.mediaType
		if d.MediaType == content.MediaTypeDockerManifest {
			mediaType = content.MediaTypeDockerLayerGzip // it has no others
		}
		blob, err := p.s.CompressLayer(ctx, found.ID, mediaType)
		if err != nil {
			return d, err
		}
		blob.Annotations = l.Annotations
		m.Layers[i], changed = blob, true
	}
	if !changed {
		return d, nil
	}
	return p.put(ctx, d, m)
}

// put stores doc in place of the one of d.
func (p *portable) put(ctx context.Context, d ocispec.Descriptor, doc any) (ocispec.Descriptor, error) {
	data, err := json.MarshalIndent(doc, "", "  ") // as build/export writes them
	if err != nil {
		return d, err
	}
	d.Digest, d.Size = digest.FromBytes(data), int64(len(data))
	return d, p.s.Content.Push(ctx, d, bytes.NewReader(data))
}

// Rename makes every name of the target old stand for made, which is the same image in other clothes:
// old does not become a dangling image.
func (s *Store) Rename(ctx context.Context, old, made ocispec.Descriptor) error {
	if old.Digest == made.Digest {
		return nil
	}
	all, err := s.Images.All(ctx)
	if err != nil {
		return err
	}
	for _, img := range all {
		if img.Target.Digest != old.Digest {
			continue
		}
		if err := s.Images.Replace(ctx, img, made); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}
