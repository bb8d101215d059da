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
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
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
	// docker's words: tag, untag, delete. It may be nil.
	Tell func(action string, id digest.Digest, name string, labels map[string]string)
}

func (l *Library) tell(action string, id digest.Digest, name string, labels map[string]string) {
	if l.Tell != nil {
		l.Tell(action, id, name, labels)
	}
}

// Container is a user of an image.
type Container struct {
	ID, Name string
	Image    digest.Digest // ID of the image
	Running  bool
}

// Image is an image as listings show it. Several names, and even several manifests, may
// stand for one ID.
type Image struct {
	ID      digest.Digest
	Tags    []string // canonical, "docker.io/library/x:latest"
	Digests []string // canonical, "docker.io/library/x@sha256:..."
	Created time.Time
	Size    int64 // bytes of its layers on disk, whoever shares them
	Labels  map[string]string

	records []image.Image
}

// Dangling reports whether the image has no name.
func (i Image) Dangling() bool { return len(i.Tags) == 0 && len(i.Digests) == 0 }

// All returns every image, the newest first.
func (l *Library) All(ctx context.Context) ([]Image, error) {
	records, err := l.Store.Images.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	sizes := sizer{store: l.Store, known: map[digest.Digest]int64{}}
	known := l.readSummaries()
	byID := map[digest.Digest]int{}
	var list []Image
	for _, r := range records {
		s, ok := known.images[r.Target.Digest]
		if !ok {
			if s, err = l.describe(ctx, r, &sizes); err != nil {
				return nil, fmt.Errorf("listing images: %w", err)
			}
			known.add(r.Target.Digest, s)
		}
		at, ok := byID[s.ID]
		if !ok {
			at = len(list)
			byID[s.ID], list = at, append(list, Image{ID: s.ID, Created: s.Created, Size: s.Size, Labels: s.Labels})
		}
		list[at].name(r)
	}
	l.writeSummaries(known, records)
	slices.SortStableFunc(list, func(a, b Image) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// name adds what r says about how the image is called.
func (i *Image) name(r image.Image) {
	i.records = append(i.records, r)
	repository, tag, _ := splitName(r.Name)
	if repository == "" {
		return // dangling
	}
	if tag != "" {
		i.Tags = append(i.Tags, r.Name)
	}
	if d := repository + "@" + r.Target.Digest.String(); !slices.Contains(i.Digests, d) {
		i.Digests = append(i.Digests, d)
	}
}

// describe reads what an image consists of. One whose blobs are gone is listed too, as
// it can be removed or pulled again.
func (l *Library) describe(ctx context.Context, r image.Image, sizes *sizer) (summary, error) {
	img, err := l.resolve(ctx, r.Target)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) {
		return summary{ID: r.Target.Digest, Created: r.Created}, nil
	}
	if err != nil {
		return summary{}, err
	}
	s := summary{ID: img.Manifest.Config.Digest, Labels: img.Config.Config.Labels}
	s.Size, s.final = sizes.of(img)
	if content.IsIndex(r.Target.MediaType) && content.MatchPlatform(content.Host(), img.Platform()) == 0 {
		s.final = false // the image for this machine may still come
	}
	if img.Config.Created != nil {
		s.Created = *img.Config.Created
	}
	return s, nil
}

// resolve returns the image behind target: the one for this machine, or else the first
// that is here.
func (l *Library) resolve(ctx context.Context, target ocispec.Descriptor) (content.Image, error) {
	img, err := content.Resolve(ctx, l.Store.Content, target, content.Host())
	if err == nil || !errdefs.IsNotFound(err) || !content.IsIndex(target.MediaType) {
		return img, err
	}
	children, childrenErr := content.Children(ctx, l.Store.Content, target)
	if childrenErr != nil {
		return img, err
	}
	for _, d := range children {
		if content.IsAttestation(d) || !content.IsManifest(d.MediaType) {
			continue
		}
		if other, err := content.Resolve(ctx, l.Store.Content, d, content.Host()); err == nil {
			return other, nil
		}
	}
	return img, err
}

// sizer adds up layers, asking for each once.
type sizer struct {
	store *cache.Store
	known map[digest.Digest]int64
	blobs bool // a layer was not unpacked
}

// of returns the size of an image, and whether that is what it has when all its layers are unpacked.
func (s *sizer) of(img content.Image) (sum int64, final bool) {
	s.blobs = false
	for i := range img.Manifest.Layers {
		sum += s.layer(img, i)
	}
	return sum, !s.blobs
}

// layer returns the size of an unpacked layer, or of its blob if it is not unpacked.
func (s *sizer) layer(img content.Image, i int) int64 {
	if i >= len(img.Config.RootFS.DiffIDs) {
		s.blobs = true
		return img.Manifest.Layers[i].Size
	}
	diffID := img.Config.RootFS.DiffIDs[i]
	if size, ok := s.known[diffID]; ok {
		return size
	}
	l, err := s.store.Layers.ByDiffID(diffID)
	if err != nil {
		s.blobs = true
		return img.Manifest.Layers[i].Size
	}
	s.known[diffID] = l.Size
	return l.Size
}

// find returns the record and the image that ref means: a name, an ID or its beginning.
func (l *Library) find(ctx context.Context, ref string) (image.Image, content.Image, error) {
	record, err := l.lookup(ctx, ref)
	if err != nil {
		return image.Image{}, content.Image{}, err
	}
	img, err := l.resolve(ctx, record.Target)
	if err != nil {
		return image.Image{}, content.Image{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return record, img, nil
}

func (l *Library) lookup(ctx context.Context, ref string) (image.Image, error) {
	record, err := l.Store.Lookup(ctx, ref)
	if errdefs.IsNotFound(err) {
		return record, noSuchImage(ref)
	}
	return record, err
}

// wordedError has docker's words, and a class that they do not mention.
type wordedError struct {
	text  string
	class error
}

func (e *wordedError) Error() string { return e.text }
func (e *wordedError) Unwrap() error { return e.class }

func worded(class error, format string, args ...any) error {
	return &wordedError{text: fmt.Sprintf(format, args...), class: class}
}

// noSuchImage is docker's error for a reference that means nothing here.
func noSuchImage(ref string) error {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.FamiliarString(reference.TagNameOnly(named))
	}
	return worded(errdefs.ErrNotFound, "No such image: %s", ref)
}

// hold touches everything that is here of target, so that no collection takes it while
// the caller's pin lives. It fails if nothing of it could run.
func (l *Library) hold(ctx context.Context, target ocispec.Descriptor) error {
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
	children, err := content.Children(ctx, l.Store.Content, target)
	if err != nil {
		return err
	}
	held, missing := 0, error(nil)
	for _, d := range children {
		switch err := l.hold(ctx, d); {
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
		return worded(errdefs.ErrInvalidArgument, "%q is not a valid repository/tag: %v", name, err)
	}
	if _, digested := ref.(reference.Digested); digested {
		return worded(errdefs.ErrInvalidArgument, "refusing to create a tag with a digest reference")
	}
	return l.pinned(ctx, func() error {
		record, err := l.lookup(ctx, source)
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
		if img, err := l.resolve(ctx, record.Target); err == nil {
			l.tell("tag", img.Manifest.Config.Digest, Familiar(name), img.Config.Config.Labels)
		}
		return nil
	})
}

// ShortID is how listings show an ID.
func ShortID(id digest.Digest) string {
	hex := id.Encoded()
	return hex[:min(12, len(hex))]
}

// Familiar is how users write a canonical name: "alpine:3" for "docker.io/library/alpine:3". It is
// reference.FamiliarString without reading the name anew, which takes ten times as long.
func Familiar(name string) string {
	rest, hub := strings.CutPrefix(name, "docker.io/")
	if !hub {
		return name
	}
	if official, ok := strings.CutPrefix(rest, "library/"); ok && !strings.Contains(official, "/") {
		return official
	}
	return rest
}

// splitName takes a canonical name apart; all parts of what is no name are empty.
func splitName(name string) (repository, tag, dgst string) {
	name, dgst, _ = strings.Cut(name, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, tag = name[:colon], name[colon+1:]
	}
	return name, tag, dgst
}
