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

	"github.com/teu-dev/teu/cache"
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
		if err := l.Store.Hold(ctx, record.Target); err != nil {
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
