package library

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/registry"
)

// PullOptions change how Pull works.
type PullOptions struct {
	Platform *ocispec.Platform // nil: the host's
	Progress content.Progress
}

// Pulled says what Pull did.
type Pulled struct {
	Target ocispec.Descriptor
	New    bool // the name did not stand for this image before
}

// Pull fetches the image of ref, which has a tag or a digest, and names it.
func (l *Library) Pull(ctx context.Context, ref reference.Named, o PullOptions) (Pulled, error) {
	var result Pulled
	err := l.pinned(ctx, func() error {
		repo, err := l.Registry.Repository(ref)
		if err != nil {
			return err
		}
		what, err := tagOrDigest(ref)
		if err != nil {
			return err
		}
		before, err := l.Store.Images.Get(ref.String())
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
			return err
		}
		resolve := repo.Resolve
		if err != nil {
			resolve = repo.ResolveData
		}
		target, err := resolve(ctx, what)
		if err != nil {
			return err
		}
		img, err := l.Store.Pull(ctx, repo, target, cache.PullOptions{Platform: o.Platform, Progress: o.Progress})
		if err != nil {
			return err
		}
		// A tag without an index has no choice to give, but who asks for a platform means it.
		if o.Platform != nil && content.MatchPlatform(*o.Platform, img.Platform()) == 0 {
			return listing.Worded(errdefs.ErrNotFound, "the image is for %s, not for %s",
				content.PlatformString(img.Platform()), content.PlatformString(*o.Platform))
		}
		target.Data = nil
		result = Pulled{Target: target, New: before.Target.Digest != target.Digest}
		return l.Store.Images.Keep(ctx, image.Image{Name: ref.String(), Target: target})
	})
	if err != nil {
		return Pulled{}, fmt.Errorf("pulling %s: %w", reference.FamiliarString(ref), err)
	}
	l.tellMoved("pull", ref)
	return result, nil
}

func tagOrDigest(ref reference.Named) (string, error) {
	switch r := ref.(type) {
	case reference.Digested:
		return r.Digest().String(), nil
	case reference.Tagged:
		return r.Tag(), nil
	}
	return "", fmt.Errorf("%s has neither tag nor digest: %w", ref, errdefs.ErrInvalidArgument)
}

// PushOptions change how Push works.
type PushOptions struct {
	Platform *ocispec.Platform // push only this one's manifest; nil: everything
	Progress content.Progress
}

// Pushed says what Push did.
type Pushed struct {
	Target ocispec.Descriptor // what the tag stands for now
	// Index is set if an index could not be pushed because not all its images are here
	// or there; Target is then the one that was.
	Index *ocispec.Descriptor
}

// Push sends the local image named ref, which has a tag, to the registry of that name.
func (l *Library) Push(ctx context.Context, ref reference.NamedTagged, o PushOptions) (Pushed, error) {
	var result Pushed
	err := l.pinned(ctx, func() error {
		record, err := l.Store.Images.Get(ref.String())
		if errdefs.IsNotFound(err) {
			return listing.Worded(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(ref))
		}
		if err != nil {
			return err
		}
		if err := l.Store.Hold(ctx, record.Target); err != nil {
			return err
		}
		if record.Target, err = l.portable(ctx, record.Target); err != nil {
			return err
		}
		repo, err := l.Registry.Repository(ref)
		if err != nil {
			return err
		}
		repo.Source = l.Store.Content
		repo.MountFrom = l.mountSources(ctx, ref)
		p := &push{library: l, name: reference.FamiliarString(ref), repo: repo, options: o}
		if result, err = p.complete(ctx, record); err != nil {
			return err
		}
		manifest, err := content.ReadAll(ctx, l.Store.Content, result.Target)
		if err != nil {
			return err
		}
		return repo.Tag(ctx, result.Target, ref.Tag(), manifest)
	})
	if err != nil {
		return Pushed{}, fmt.Errorf("pushing %s: %w", reference.FamiliarString(ref), err)
	}
	l.tellMoved("push", ref)
	return result, nil
}

// portable compresses what of target was built here and never compressed. All its names stand for
// the result from then on, so that they have the digest it is known by elsewhere.
func (l *Library) portable(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	made, err := l.Store.Portable(ctx, target, ocispec.MediaTypeImageLayerGzip)
	if err != nil {
		return target, err
	}
	return made, l.Store.Rename(ctx, target, made)
}

// push is one image on its way to one repository.
type push struct {
	library *Library
	name    string // the user's
	repo    *registry.Repository
	options PushOptions
}

// complete sends the image of record. If it has blobs that neither side has, others of the same layers are sent,
// and the name stands for the image with those.
func (p *push) complete(ctx context.Context, record image.Image) (Pushed, error) {
	result, err := p.run(ctx, record.Target)
	if !errdefs.IsNotFound(err) {
		return result, err
	}
	made, completeErr := p.library.Store.Complete(ctx, record.Target, ocispec.MediaTypeImageLayerGzip)
	if completeErr != nil || made.Digest == record.Target.Digest {
		return result, errors.Join(err, completeErr)
	}
	if result, err = p.run(ctx, made); err != nil {
		return result, err
	}
	err = p.library.Store.Images.Replace(ctx, record, made)
	if errdefs.IsNotFound(err) { // meanwhile the name has been given to another image, or none
		return result, nil
	}
	if err != nil {
		return result, err
	}
	return result, p.library.Store.Images.Put(ctx, image.Image{Target: record.Target, Created: record.Created}) // dangling
}

// run sends target, or what can be sent of it.
func (p *push) run(ctx context.Context, target ocispec.Descriptor) (Pushed, error) {
	if p.options.Platform != nil {
		img, err := listing.For(ctx, p.library.Store, p.name, target, *p.options.Platform)
		if err != nil {
			return Pushed{}, err
		}
		return Pushed{Target: img.Descriptor}, p.copy(ctx, img.Descriptor)
	}
	err := p.copy(ctx, target)
	if !errdefs.IsNotFound(err) || !content.IsIndex(target.MediaType) {
		return Pushed{Target: target}, err
	}
	// Only one platform of the index is here, as after a pull. The others may be there already.
	whole, err := p.index(ctx, target)
	if err != nil || whole {
		return Pushed{Target: target}, err
	}
	img, err := p.library.Store.Resolve(ctx, target)
	if err != nil {
		return Pushed{}, err
	}
	return Pushed{Target: img.Descriptor, Index: &target}, p.copy(ctx, img.Descriptor)
}

func (p *push) copy(ctx context.Context, d ocispec.Descriptor) error {
	return content.Copy(ctx, p.repo, p.library.Store.Content, d, content.CopyOptions{Progress: p.options.Progress})
}

// index sends what is here of an index, then the index itself if the repository has the rest.
func (p *push) index(ctx context.Context, d ocispec.Descriptor) (whole bool, err error) {
	store := p.library.Store.Content
	children, err := content.Children(ctx, store, d)
	if err != nil {
		return false, err
	}
	for _, child := range children {
		there, err := p.repo.Exists(ctx, child)
		if err == nil && !there {
			err = p.copy(ctx, child)
		}
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	r, err := store.Fetch(ctx, d)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return true, p.repo.Push(ctx, d, r)
}

// mountSources knows, once asked, which repositories of ref's registry have been seen to
// hold a blob: those that local images of the same registry are named after.
func (l *Library) mountSources(ctx context.Context, ref reference.Named) func(digest.Digest) []string {
	sources := sync.OnceValue(func() map[digest.Digest][]string {
		found := map[digest.Digest][]string{}
		records, err := l.Store.Images.All(ctx)
		if err != nil {
			return found // mounting only saves time
		}
		for _, r := range records {
			named, err := reference.ParseNormalizedNamed(r.Name)
			if err != nil || reference.Domain(named) != reference.Domain(ref) || named.Name() == ref.Name() {
				continue
			}
			img, err := l.Store.Resolve(ctx, r.Target)
			if err != nil {
				continue
			}
			for _, layer := range img.Manifest.Layers {
				found[layer.Digest] = append(found[layer.Digest], reference.Path(named))
			}
		}
		return found
	})
	return func(d digest.Digest) []string { return sources()[d] }
}
