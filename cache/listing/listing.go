// Package listing is the images of a store as listings show them: under names, with an ID, an age, a size and
// labels. It reads what package image names, and knows neither registries nor who uses an image.
//
// The words are docker's: the ID of an image is the digest of its config, a tag is a name that may move, an image
// without a name is dangling.
package listing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
)

// Image is an image as listings show it. Several names, and even several manifests, may
// stand for one ID.
type Image struct {
	ID      digest.Digest
	Tags    []string // canonical, "docker.io/library/x:latest"
	Digests []string // canonical, "docker.io/library/x@sha256:..."
	Created time.Time
	Size    int64 // bytes of its layers on disk, whoever shares them
	Labels  map[string]string
	Records []*image.Image // at least one
}

// Dangling reports whether the image has no name.
func (i Image) Dangling() bool { return len(i.Tags) == 0 && len(i.Digests) == 0 }

// All returns every image, the newest first.
func All(ctx context.Context, store *cache.Store) ([]Image, error) {
	records, err := store.Images.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	sizes := NewSizer(store)
	known := readSummaries(store, len(records))
	byID := make(map[digest.Digest]int, len(records))
	list := make([]Image, 0, len(records))
	for i := range records {
		r := &records[i]
		s, ok := known.images[r.Target.Digest]
		if !ok {
			if s, err = describe(ctx, store, r, sizes); err != nil {
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
	known.write(store, records)
	slices.SortStableFunc(list, func(a, b Image) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// name adds what r says about how the image is called.
func (i *Image) name(r *image.Image) {
	i.Records = append(i.Records, r)
	repository, tag := splitName(r.Name)
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
func describe(ctx context.Context, store *cache.Store, r *image.Image, sizes *Sizer) (summary, error) {
	img, err := store.Resolve(ctx, r.Target)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) {
		return summary{ID: r.Target.Digest, Created: r.Created}, nil
	}
	if err != nil {
		return summary{}, err
	}
	s := summary{ID: img.Manifest.Config.Digest, Labels: img.Config.Config.Labels}
	s.Size, s.final = sizes.Image(img)
	if content.IsIndex(r.Target.MediaType) && content.MatchPlatform(content.Host(), img.Platform()) == 0 {
		s.final = false // the image for this machine may still come
	}
	if img.Config.Created != nil {
		s.Created = *img.Config.Created
	}
	return s, nil
}

// Find returns the record and the image that ref means: a name, an ID or its beginning.
func Find(ctx context.Context, store *cache.Store, ref string) (image.Image, content.Image, error) {
	record, err := Lookup(ctx, store, ref)
	if err != nil {
		return image.Image{}, content.Image{}, err
	}
	img, err := store.Resolve(ctx, record.Target)
	if err != nil {
		return image.Image{}, content.Image{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return record, img, nil
}

// Lookup returns the record that ref means.
func Lookup(ctx context.Context, store *cache.Store, ref string) (image.Image, error) {
	record, err := store.Lookup(ctx, ref)
	if errdefs.IsNotFound(err) {
		return record, NoSuchImage(ref)
	}
	return record, err
}

// NoSuchImage is docker's error for a reference that means nothing here.
func NoSuchImage(ref string) error {
	if name, err := cache.FullName(ref); err == nil {
		ref = Familiar(name)
	}
	return Worded(errdefs.ErrNotFound, "No such image: %s", ref)
}

// wordedError has docker's words, and a class that they do not mention.
type wordedError struct {
	text  string
	class error
}

func (e *wordedError) Error() string { return e.text }
func (e *wordedError) Unwrap() error { return e.class }

// Worded returns an error of a class in docker's words.
func Worded(class error, format string, args ...any) error {
	return &wordedError{text: fmt.Sprintf(format, args...), class: class}
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

// splitName takes a canonical name apart; both parts of what is no name are empty.
func splitName(name string) (repository, tag string) {
	name, _, _ = strings.Cut(name, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, tag = name[:colon], name[colon+1:]
	}
	return name, tag
}
