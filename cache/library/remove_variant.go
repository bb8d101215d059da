package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
)

// removeVariants removes the images for o.Platforms from what ref, whose record it is, stands for. If no other
// image of it is here, it says that all of it is to be removed, and does nothing.
func (l *Library) removeVariants(ctx context.Context, ref string, record image.Image, o RemoveOptions) (removed []Removal, all bool, err error) {
	before, err := l.Store.Cutoff()
	if err != nil {
		return nil, false, err
	}
	victims := map[digest.Digest]content.Image{} // by manifest
	for _, p := range o.Platforms {
		img, err := listing.For(ctx, l.Store, ref, record.Target, p)
		if err != nil {
			return nil, false, err
		}
		victims[img.Descriptor.Digest] = img
	}
	variants, err := listing.Variants(ctx, l.Store, record.Target)
	if err != nil {
		return nil, false, err
	}
	others := slices.DeleteFunc(slices.Clone(variants), func(v listing.Variant) bool {
		_, victim := victims[v.Target.Digest]
		return victim || v.ID == ""
	})
	if len(others) == 0 {
		return nil, true, nil
	}
	for _, img := range victims {
		if err := l.variantRemovable(ctx, record, img, o); err != nil {
			return nil, false, err
		}
	}
	for _, v := range variants {
		img, victim := victims[v.Target.Digest]
		if !victim {
			continue
		}
		delete(victims, v.Target.Digest)
		if err = l.takeVariant(ctx, img, before); err != nil {
			break
		}
		removed = append(removed, Removal{Deleted: v.Target.Digest.String()})
		l.tell("delete", v.ID, v.Target.Digest.String(), img.Config.Config.Labels)
	}
	if err := errors.Join(err, listing.Forget(l.Store)); err != nil {
		return removed, false, err
	}
	_, err = l.Store.GC(ctx, cache.GCOptions{})
	return removed, false, err
}

// takeVariant takes the manifest of an image away, unless a command that is not done yet wants it. A manifest that is not here
// leads nowhere, so the collection takes the rest.
func (l *Library) takeVariant(ctx context.Context, img content.Image, before time.Time) error {
	gone, err := l.Store.Take(ctx, img.Descriptor.Digest, before)
	if err == nil && !gone {
		err = listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (cannot be forced) - image is being used by a command that has not ended", variantName(img))
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func variantName(img content.Image) string {
	return fmt.Sprintf("%s (%s)", listing.ShortID(img.Manifest.Config.Digest), content.PlatformString(img.Platform()))
}

// variantRemovable refuses what containers use, or what is another image too.
func (l *Library) variantRemovable(ctx context.Context, record image.Image, img content.Image, o RemoveOptions) error {
	what := variantName(img)
	using, err := l.users(ctx, img.Manifest.Config.Digest)
	if err != nil {
		return err
	}
	for _, c := range using {
		switch {
		case c.Running:
			return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", what, short(c.ID))
		case !o.Force:
			return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", what, short(c.ID))
		}
	}
	records, err := l.Store.Images.All(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Target.Digest == record.Target.Digest {
			continue
		}
		variants, err := listing.Variants(ctx, l.Store, r.Target)
		if err != nil {
			continue // it is damaged, and lacks nothing that it has
		}
		if slices.ContainsFunc(variants, func(v listing.Variant) bool { return v.Target.Digest == img.Descriptor.Digest }) {
			return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (cannot be forced) - image is also %s", what, listing.Familiar(r.Name))
		}
	}
	return nil
}
