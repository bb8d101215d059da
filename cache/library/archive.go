package library

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/registry/archive"
)

// SaveOptions change how Save works.
type SaveOptions struct {
	Platforms []ocispec.Platform // only the images for these, of one without the index; nil: all that are here
}

// Save writes the images that refs mean into w, one archive. A repository without a tag
// means all its tags; an ID means the image without its names.
func (l *Library) Save(ctx context.Context, w io.Writer, refs []string, o SaveOptions) error {
	return l.pinned(ctx, func() error {
		var images []archive.Image
		ids := make([]digest.Digest, len(refs))
		for i, ref := range refs {
			records, err := l.named(ctx, ref)
			if err != nil {
				return err
			}
			for _, r := range records {
				if id, err := l.Store.ImageID(ctx, r.Target); err == nil {
					ids[i] = id
				}
				target, err := l.wanted(ctx, ref, r.Target, o.Platforms)
				if err != nil {
					return err
				}
				if target, err = l.portable(ctx, target); err == nil {
					target, err = l.Store.Complete(ctx, target, ocispec.MediaTypeImageLayerGzip)
				}
				if err != nil {
					return fmt.Errorf("saving %s: %w", ref, err)
				}
				images = collect(images, target, r.Name)
			}
		}
		if err := archive.Save(ctx, w, l.Store.Content, images, archive.SaveOptions{Platforms: o.Platforms}); err != nil {
			return err
		}
		for i, ref := range refs {
			if ids[i] != "" {
				l.tell("save", ids[i], ref, nil)
			}
		}
		return nil
	})
}

// wanted returns what of target, which ref means, is to be saved, and holds it.
func (l *Library) wanted(ctx context.Context, ref string, target ocispec.Descriptor, platforms []ocispec.Platform) (ocispec.Descriptor, error) {
	parts := []ocispec.Descriptor{target}
	if len(platforms) > 0 {
		parts = nil
	}
	for _, p := range platforms {
		img, err := listing.For(ctx, l.Store, ref, target, p)
		if err != nil {
			return target, err
		}
		parts = append(parts, img.Descriptor)
	}
	for _, d := range parts {
		if err := l.Store.Hold(ctx, d); err != nil {
			return target, fmt.Errorf("saving %s: %w", ref, err)
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return target, nil
}

// named returns the records of a repository or a name, or the record of an ID, nameless.
func (l *Library) named(ctx context.Context, ref string) ([]image.Image, error) {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) {
		all, err := l.Store.Images.All(ctx)
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(i image.Image) bool { return listing.Repository(i.Name) != named.Name() })
		if len(all) > 0 {
			return all, nil
		}
	}
	record, err := listing.Lookup(ctx, l.Store, ref)
	if err != nil {
		return nil, err
	}
	if !isName(record, ref) {
		record.Name = ""
	}
	return []image.Image{record}, nil
}

// collect adds target to images, or only its name if target is there.
func collect(images []archive.Image, target ocispec.Descriptor, name string) []archive.Image {
	at := slices.IndexFunc(images, func(i archive.Image) bool { return i.Target.Digest == target.Digest })
	if at < 0 {
		at, images = len(images), append(images, archive.Image{Target: target})
	}
	if ref, err := reference.ParseNormalizedNamed(name); err == nil {
		if _, tagged := ref.(reference.Tagged); tagged && !slices.Contains(images[at].Names, name) {
			images[at].Names = append(images[at].Names, name)
		}
	}
	return images
}

// LoadOptions change how Load works.
type LoadOptions struct {
	Platforms []ocispec.Platform // only the images for these, all of which are unpacked; nil: all
}

// Loaded is an image that Load found.
type Loaded struct {
	ID    digest.Digest
	Names []string // canonical
}

// Load reads an archive, unpacks its images and names them as it says. Nothing is named
// before all of it is stored and verified.
func (l *Library) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Loaded, error) {
	var out []Loaded
	err := l.pinned(ctx, func() error {
		src, images, err := archive.Open(ctx, l.Store.Content, r, archive.LoadOptions{Platforms: o.Platforms, Known: l.known})
		if err != nil {
			return err
		}
		var named []archive.Image
		var artifact error
		for _, img := range images {
			id, err := l.unpackAll(ctx, img, src)
			if errdefs.IsFailedPrecondition(err) {
				artifact = fmt.Errorf("image %s: %w", img.Target.Digest, err)
				continue // a signature or the like beside the image it is of
			}
			if err != nil {
				return fmt.Errorf("image %s: %w", img.Target.Digest, err)
			}
			named = append(named, img)
			out = append(out, Loaded{ID: id, Names: img.Names})
		}
		if len(named) == 0 {
			return artifact
		}
		for _, img := range named {
			names := img.Names
			if len(names) == 0 {
				names = []string{""}
			}
			for _, name := range names {
				if err := l.Store.Images.Put(ctx, image.Image{Name: name, Target: img.Target}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && len(o.Platforms) > 0 { // the layers of others were stored before anybody knew whose they are
		_, err = l.Store.GC(ctx, cache.GCOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("loading: %w", err)
	}
	for _, img := range out {
		for _, name := range img.Names {
			l.tell("load", img.ID, listing.Familiar(name), nil)
		}
	}
	return out, nil
}

// known returns the layers that an image which is here has in common with one of diffIDs, from the lowest on.
func (l *Library) known(ctx context.Context, diffIDs []digest.Digest) (most []ocispec.Descriptor, err error) {
	records, err := l.Store.Images.All(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		img, err := l.Store.Resolve(ctx, r.Target)
		if err != nil {
			continue // it is damaged, or no image
		}
		n, have := 0, img.Config.RootFS.DiffIDs
		for n < min(len(diffIDs), len(have), len(img.Manifest.Layers)) && diffIDs[n] == have[n] {
			n++
		}
		if n > len(most) {
			most = img.Manifest.Layers[:n]
		}
	}
	return most, ctx.Err()
}

// unpackAll has all that was chosen of img ready to run, else what suits this machine, and what is left of it in
// src stored. It returns the digest of the first config.
func (l *Library) unpackAll(ctx context.Context, img archive.Image, src archive.Source) (first digest.Digest, err error) {
	chosen := img.Chosen
	if len(chosen) == 0 {
		chosen = []ocispec.Descriptor{img.Target}
	}
	for _, d := range chosen {
		id, err := l.unpack(ctx, d, src)
		if err != nil {
			return "", err
		}
		if first == "" {
			first = id
		}
	}
	return first, l.storeRest(ctx, img.Blobs, src)
}

// unpack has the image of target ready to run, with what only src has of it if
// that is not nil, and returns the digest of its config. What is no image is an errdefs.ErrFailedPrecondition.
func (l *Library) unpack(ctx context.Context, target ocispec.Descriptor, src archive.Source) (digest.Digest, error) {
	img, err := l.Store.Resolve(ctx, target)
	if err != nil {
		return "", err
	}
	_, err = l.Store.UnpackFrom(ctx, img, src)
	return img.Manifest.Config.Digest, err
}

// storeRest stores those of blobs that unpacking has not stored: of other platforms, and of layers that were
// unpacked before.
func (l *Library) storeRest(ctx context.Context, blobs []ocispec.Descriptor, src archive.Source) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range blobs {
		g.Go(func() error {
			return content.Copy(ctx, l.Store.Content, src, d, content.CopyOptions{Foreign: true})
		})
	}
	return g.Wait()
}
