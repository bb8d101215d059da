package library

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
)

// Removal is one thing Remove or Prune did; one of its fields is set.
type Removal struct {
	Untagged string // familiar name
	Deleted  string // ID
}

// RemoveOptions change how Remove works.
type RemoveOptions struct {
	Force bool // although containers or other names use the image
	// Platforms are those whose images go while the names stay, as long as they stand for another image that is
	// here. None: all.
	Platforms []ocispec.Platform
}

// Remove takes a name from an image, and with its last name the image. An ID means the
// image with all its names. What nothing else needs is collected before Remove returns.
func (l *Library) Remove(ctx context.Context, ref string, o RemoveOptions) ([]Removal, error) {
	record, err := listing.Lookup(ctx, l.Store, ref)
	if err != nil {
		return nil, err
	}
	if len(o.Platforms) > 0 {
		removed, all, err := l.removeVariants(ctx, ref, record, o)
		if err != nil || !all {
			return removed, err
		}
	}
	img, err := l.imageOf(ctx, record)
	if err != nil {
		return nil, err
	}
	using, err := l.users(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	victims := img.Records
	if named := namedBy(img, record, ref); len(named) > 0 {
		victims = named
		last := len(img.Records) == len(named)
		if last && len(using) > 0 && !o.Force {
			return nil, listing.Worded(errdefs.ErrConflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				ref, short(using[0].ID), listing.ShortID(img.ID))
		}
	} else if err := removable(img, using, o); err != nil {
		return nil, err
	}
	out, err := l.forget(ctx, img, victims, len(using) > 0)
	if err != nil {
		return out, err
	}
	_, err = l.Store.GC(ctx, cache.GCOptions{})
	return out, err
}

// namedBy are the records that ref is a name of: one, or with a digest all that its repository has of the
// image. There are none if it is an ID.
func namedBy(img listing.Image, record image.Image, ref string) (named []*image.Image) {
	if isName(record, ref) {
		return []*image.Image{&record}
	}
	want, err := reference.ParseNormalizedNamed(ref)
	if _, digested := want.(reference.Digested); err != nil || !digested {
		return nil
	}
	for _, r := range img.Records {
		if r.Target.Digest == record.Target.Digest && listing.Repository(r.Name) == want.Name() {
			named = append(named, r)
		}
	}
	return named
}

// isName reports whether ref is the name of the record, not an ID.
func isName(record image.Image, ref string) bool {
	if record.Name == "" {
		return false
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	return reference.TagNameOnly(named).String() == record.Name
}

// removable is docker's rule for removing an image by its ID.
func removable(img listing.Image, using []Container, o RemoveOptions) error {
	repositories := map[string]bool{}
	for _, d := range img.Digests {
		repositories[listing.Repository(d)] = true
	}
	for _, c := range using {
		if c.Running {
			return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (cannot be forced) - image is being used by running container %s",
				listing.ShortID(img.ID), short(c.ID))
		}
	}
	switch {
	case o.Force:
	case len(repositories) > 1, len(img.Tags) > 1:
		return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories",
			listing.ShortID(img.ID))
	case len(using) > 0:
		return listing.Worded(errdefs.ErrConflict, "conflict: unable to delete %s (must be forced) - image is being used by stopped container %s",
			listing.ShortID(img.ID), short(using[0].ID))
	}
	return nil
}

func short(id string) string { return id[:min(12, len(id))] }

// imageOf returns the image that record is about, with all its records.
func (l *Library) imageOf(ctx context.Context, record image.Image) (listing.Image, error) {
	all, err := l.All(ctx)
	if err != nil {
		return listing.Image{}, err
	}
	for _, img := range all {
		for _, r := range img.Records {
			if r.Name == record.Name && r.Target.Digest == record.Target.Digest {
				return img, nil
			}
		}
	}
	// The manifest of an index was named by its digest: the record is the index's.
	for _, img := range all {
		for _, r := range img.Records {
			if r.Name == record.Name {
				return img, nil
			}
		}
	}
	return listing.Image{}, listing.NoSuchImage(record.Name)
}

func (l *Library) users(ctx context.Context, id digest.Digest) ([]Container, error) {
	if l.Containers == nil {
		return nil, nil
	}
	all, err := l.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for containers of image %s: %w", listing.ShortID(id), err)
	}
	return slices.DeleteFunc(all, func(c Container) bool { return c.Image != id }), nil
}

// forget removes records of an image. If they are all it has and containers use it, it
// stays as a dangling image, so that it remains visible what takes the space.
func (l *Library) forget(ctx context.Context, img listing.Image, records []*image.Image, used bool) ([]Removal, error) {
	var out []Removal
	gone := len(records) == len(img.Records)
	for _, r := range records {
		if r.Name == "" && used {
			continue
		}
		err := l.Store.Images.DeleteRecord(ctx, *r)
		if errdefs.IsNotFound(err) {
			continue // another process removed it, or gave the name to another image
		}
		if err != nil {
			return out, err
		}
		if r.Name != "" {
			out = append(out, Removal{Untagged: listing.Familiar(r.Name)})
			l.tell("untag", img.ID, img.ID.String(), img.Labels)
		}
	}
	if gone && used {
		return out, l.Store.Images.Put(ctx, image.Image{Target: records[0].Target, Created: records[0].Created})
	}
	if gone {
		out = append(out, Removal{Deleted: img.ID.String()})
		l.tell("delete", img.ID, img.ID.String(), img.Labels)
	}
	return out, nil
}

// PruneOptions choose what Prune removes.
type PruneOptions struct {
	All     bool // also images with names
	Filters listing.Filters
}

// Prune removes the images that no container uses and that have no name or, with All,
// any. It returns what it removed and how many bytes that freed.
func (l *Library) Prune(ctx context.Context, o PruneOptions) (removed []Removal, freed int64, err error) {
	all, err := l.All(ctx)
	if err != nil {
		return nil, 0, err
	}
	if all, err = l.Select(ctx, all, o.Filters); err != nil {
		return nil, 0, err
	}
	used := map[digest.Digest]bool{}
	if l.Containers != nil {
		containers, err := l.Containers(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("looking for containers of images: %w", err)
		}
		for _, c := range containers {
			used[c.Image] = true
		}
	}
	for _, img := range all {
		if used[img.ID] || (!o.All && !img.Dangling()) {
			continue
		}
		done, err := l.forget(ctx, img, img.Records, false)
		removed = append(removed, done...)
		if err != nil {
			return removed, 0, err
		}
	}
	report, err := l.Store.GC(ctx, cache.GCOptions{})
	return removed, report.Bytes, err
}
