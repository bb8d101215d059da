package manifestlist

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// A Manifest is an image of a registry as `docker manifest inspect --verbose` shows it.
type Manifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`

	list bool // it was found in a list
}

// Raw returns the manifest or the list that a registry has under name.
func (l *Lists) Raw(ctx context.Context, name string) ([]byte, error) {
	data, _, err := l.fetch(ctx, name)
	return data, err
}

func (l *Lists) fetch(ctx context.Context, name string) ([]byte, ocispec.Descriptor, error) {
	ref, err := parse(name)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	repo, err := l.Registry.Repository(ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	d, err := repo.Resolve(ctx, tagOrDigest(ref))
	if errdefs.IsNotFound(err) {
		return nil, d, missing(ref.String())
	}
	if err != nil {
		return nil, d, err
	}
	data, err := content.ReadAll(ctx, repo, d)
	return data, d, err
}

func tagOrDigest(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	return ref.(reference.Tagged).Tag() // parse has seen to it
}

// Remote describes the image that a registry has under name, or all images of a list.
func (l *Lists) Remote(ctx context.Context, name string) ([]Manifest, error) {
	ref, err := parse(name)
	if err != nil {
		return nil, err
	}
	data, d, err := l.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	if !content.IsIndex(d.MediaType) {
		m, err := l.describe(ctx, ref, d, data)
		return []Manifest{m}, err
	}
	var index ocispec.Index
	if err := content.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	var list []Manifest
	for _, child := range index.Manifests {
		at, err := reference.WithDigest(reference.TrimNamed(ref), child.Digest)
		if err != nil {
			return nil, err
		}
		data, d, err := l.fetch(ctx, at.String())
		if err != nil {
			return nil, err
		}
		m, err := l.describe(ctx, at, d, data)
		// An attestation is in the list of its image, whose entry there says all there is of a platform.
		if err != nil && !errdefs.IsFailedPrecondition(err) {
			return nil, err
		}
		if child.Platform != nil {
			m.Descriptor.Platform = child.Platform
		}
		m.list = true
		list = append(list, m)
	}
	return list, nil
}

// describe asks the config for the platform. What is no image is described without one, beside an
// errdefs.ErrFailedPrecondition.
func (l *Lists) describe(ctx context.Context, ref reference.Named, d ocispec.Descriptor, data []byte) (Manifest, error) {
	repo, err := l.Registry.Repository(ref)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Ref: ref.String(), Descriptor: d, Raw: data}
	if m.SchemaV2Manifest = data; d.MediaType == ocispec.MediaTypeImageManifest {
		m.OCIManifest, m.SchemaV2Manifest = data, nil
	}
	img, err := content.Resolve(ctx, repo, d, content.Host())
	if err != nil {
		return m, fmt.Errorf("%s: %w", ref, err)
	}
	p := img.Config.Platform
	m.Descriptor.Platform = &p
	return m, nil
}

// PushOptions change how Push works.
type PushOptions struct {
	Purge  bool                                       // remove the draft afterwards
	Pushed func(ref reference.Named, d digest.Digest) // called for every image; may be nil
}

// Push sends the draft name to its registry, with the images that its repository does not have, and
// returns its digest. Images of other repositories of the same registry are mounted, not sent.
func (l *Lists) Push(ctx context.Context, name string, o PushOptions) (digest.Digest, error) {
	draft, err := l.Get(name)
	if err != nil {
		return "", err
	}
	ref, err := parse(name)
	if err != nil {
		return "", err
	}
	if _, tagged := ref.(reference.Tagged); !tagged {
		return "", fmt.Errorf("%s: a list is pushed to a tag: %w", name, errdefs.ErrInvalidArgument)
	}
	for _, e := range draft.Entries {
		if p := e.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return "", worded(errdefs.ErrFailedPrecondition, "manifest %s must have an OS and Architecture to be pushed to a registry", e.Ref)
		}
		if err := l.pushEntry(ctx, ref, e, o); err != nil {
			return "", fmt.Errorf("pushing %s: %w", e.Ref, err)
		}
	}
	data, d, err := draft.Index()
	if err != nil {
		return "", err
	}
	repo, err := l.Registry.Repository(ref)
	if err != nil {
		return "", err
	}
	if err := repo.Push(ctx, d, bytes.NewReader(data)); err != nil {
		return "", err
	}
	if err := repo.Tag(ctx, d, tagOrDigest(ref), data); err != nil {
		return "", err
	}
	if o.Purge {
		return d.Digest, l.Remove(name)
	}
	return d.Digest, nil
}

func (l *Lists) pushEntry(ctx context.Context, to reference.Named, e Entry, o PushOptions) error {
	from, err := parse(e.Ref)
	if err != nil {
		return err
	}
	src, err := l.Registry.Repository(from)
	if err != nil {
		return err
	}
	dst, err := l.Registry.Repository(to)
	if err != nil {
		return err
	}
	if dst.Source = src; reference.Domain(from) == reference.Domain(to) {
		dst.MountFrom = func(digest.Digest) []string { return []string{reference.Path(from)} }
	}
	if from.Name() != to.Name() {
		if err := content.Copy(ctx, dst, src, e.Descriptor, content.CopyOptions{}); err != nil {
			return err
		}
	}
	if o.Pushed != nil {
		at, err := reference.WithDigest(reference.TrimNamed(to), e.Descriptor.Digest)
		if err != nil {
			return err
		}
		o.Pushed(at, e.Descriptor.Digest)
	}
	return nil
}
