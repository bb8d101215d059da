// Package library is the images of this machine as users know them: under names, with
// an ID, a size and a history; listed, described, pulled, pushed, saved, loaded, removed.
//
// Package cache keeps what images consist of and image their names; library is what a
// command and an API route call. The words are docker's: the ID of an image is the
// digest of its config, a tag is a name that may move, an image without a name is
// dangling. Errors that docker's clients show are worded as docker's.
package library

import (
	"context"
	"errors"
	"fmt"

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

// Library is the images in a store. It is safe for concurrent use if its parts are.
type Library struct {
	Store    *cache.Store
	Registry *registry.Client // for Pull and Push only
	// Containers lists the containers there are, which keep images from being removed.
	// Nil means that there are none.
	Containers func(context.Context) ([]Container, error)
	// Tell hears what has happened to an image, by its ID and one of its names (or the ID again), in
	// docker's words: tag, untag, delete, save, load, import; pull and push have the name for an ID. It may be nil.
	Tell func(action, id, name string, labels map[string]string)
	// Change returns a config as instructions of a Dockerfile change it. Import needs it.
	Change func(config []byte, instructions []string) ([]byte, error)
}

func (l *Library) tell(action string, id digest.Digest, name string, labels map[string]string) {
	if l.Tell != nil {
		l.Tell(action, id.String(), name, labels)
	}
}

// tellMoved tells of an image that was pulled or pushed.
func (l *Library) tellMoved(action string, ref reference.Named) {
	name := reference.FamiliarString(ref)
	if l.Tell != nil {
		l.Tell(action, name, name, nil)
	}
}

// Container is a user of an image.
type Container struct {
	ID, Name string
	Image    digest.Digest // ID of the image
	Running  bool
}

// All returns every image, the newest first.
func (l *Library) All(ctx context.Context) ([]listing.Image, error) { return listing.All(ctx, l.Store) }

// Select returns those of images that all filters let through.
func (l *Library) Select(ctx context.Context, images []listing.Image, f listing.Filters) ([]listing.Image, error) {
	return listing.Select(ctx, l.Store, images, f)
}

// hold touches everything that is here of target, so that no collection takes it while
// the caller's pin lives. It fails if nothing of it could run.
func (l *Library) hold(ctx context.Context, target ocispec.Descriptor) error {
	return l.holdOnce(ctx, target, map[digest.Digest]error{})
}

// holdOnce is hold that does not look again at the indexes in done.
func (l *Library) holdOnce(ctx context.Context, target ocispec.Descriptor, done map[digest.Digest]error) error {
	there, err := l.Store.Content.Exists(ctx, target)
	if err == nil && !there {
		err = fmt.Errorf("blob %s is not here: %w", target.Digest, errdefs.ErrNotFound)
	}
	if err != nil || !isDocument(target) {
		return err
	}
	if content.IsManifest(target.MediaType) {
		return l.holdManifest(ctx, target)
	}
	if err, again := done[target.Digest]; again {
		return err
	}
	err = l.holdIndex(ctx, target, done)
	done[target.Digest] = err
	return err
}

func (l *Library) holdIndex(ctx context.Context, d ocispec.Descriptor, done map[digest.Digest]error) error {
	children, err := content.Children(ctx, l.Store.Content, d)
	if err != nil {
		return err
	}
	held, missing := 0, error(nil)
	for _, d := range children {
		switch err := l.holdOnce(ctx, d, done); {
		case err == nil:
			held++
		case errdefs.IsNotFound(err):
			missing = err
		default:
			return err
		}
	}
	if held == 0 {
		return missing
	}
	return nil
}

// holdManifest touches the blobs and the unpacked layers of an image. One of both is enough.
func (l *Library) holdManifest(ctx context.Context, d ocispec.Descriptor) error {
	children, err := content.Children(ctx, l.Store.Content, d)
	if err != nil || len(children) == 0 {
		return err
	}
	if there, err := l.Store.Content.Exists(ctx, children[0]); err != nil || !there {
		return errors.Join(err, notFoundUnless(there, children[0]))
	}
	var diffIDs []digest.Digest
	if img, err := content.Resolve(ctx, l.Store.Content, d, content.Host()); err == nil {
		diffIDs = img.Config.RootFS.DiffIDs
	}
	for i, layer := range children[1:] {
		there, err := l.Store.Content.Exists(ctx, layer)
		if err != nil {
			return err
		}
		unpacked := false
		if i < len(diffIDs) {
			if found, err := l.Store.Layers.ByDiffID(diffIDs[i]); err == nil {
				if unpacked, err = l.Store.Layers.Touch(found.ID); err != nil {
					return err
				}
			}
		}
		if err := notFoundUnless(there || unpacked || content.IsForeign(layer.MediaType), layer); err != nil {
			return err
		}
	}
	return nil
}

func notFoundUnless(there bool, d ocispec.Descriptor) error {
	if there {
		return nil
	}
	return fmt.Errorf("blob %s is not here: %w", d.Digest, errdefs.ErrNotFound)
}

func isDocument(d ocispec.Descriptor) bool {
	return content.IsIndex(d.MediaType) || content.IsManifest(d.MediaType)
}

// pinned calls fn while nothing that is touched can be collected.
func (l *Library) pinned(ctx context.Context, fn func() error) (err error) {
	unpin, err := l.Store.Pin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	return fn()
}

// Tag gives the image that source means another name.
func (l *Library) Tag(ctx context.Context, source, name string) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return listing.Worded(errdefs.ErrInvalidArgument, "%q is not a valid repository/tag: %v", name, err)
	}
	if _, digested := ref.(reference.Digested); digested {
		return listing.Worded(errdefs.ErrInvalidArgument, "refusing to create a tag with a digest reference")
	}
	if digest.Algorithm(reference.FamiliarName(ref)).Available() {
		return listing.Worded(errdefs.ErrInvalidArgument, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	return l.pinned(ctx, func() error {
		record, err := listing.Lookup(ctx, l.Store, source)
		if err != nil {
			return err
		}
		if err := l.hold(ctx, record.Target); err != nil {
			return fmt.Errorf("image %s: %w", source, err)
		}
		name := reference.TagNameOnly(ref).String()
		if err := l.Store.Images.Put(ctx, image.Image{Name: name, Target: record.Target}); err != nil {
			return err
		}
		if img, err := l.Store.Resolve(ctx, record.Target); err == nil {
			l.tell("tag", img.Manifest.Config.Digest, listing.Familiar(name), img.Config.Config.Labels)
		}
		return nil
	})
}
