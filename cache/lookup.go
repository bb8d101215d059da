package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
)

// CanonicalName returns the name under which images are kept for what a user wrote:
// docker.io/library/alpine:latest for alpine. A reference with tag and digest keeps the digest only.
func CanonicalName(name string) (string, error) {
	n, err := parseUserName(name)
	if err != nil {
		return "", err
	}
	if n.digest != "" {
		n.tag = ""
	}
	return n.String(), nil
}

// FullName is CanonicalName with the tag that may stand beside a digest.
func FullName(name string) (string, error) {
	n, err := parseUserName(name)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

func parseUserName(name string) (imageName, error) {
	n, err := parseName(name)
	if err != nil {
		return imageName{}, fmt.Errorf("image name %.300q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// Lookup finds an image by name (docker's short forms included), by name@digest, or by ID or
// digest, whole or its first hex digits. A name wins over the first digits of an ID, as it does for docker.
// Several images behind a prefix are an errdefs.ErrInvalidArgument.
func (s *Store) Lookup(ctx context.Context, nameOrID string) (image.Image, error) {
	if d := digest.Digest(nameOrID); d.Validate() == nil {
		return s.byID(ctx, d.Encoded(), nameOrID)
	}
	if hex, ok := strings.CutPrefix(nameOrID, "sha256:"); ok && isHex(hex) {
		return s.byID(ctx, hex, nameOrID)
	}
	if isHex(nameOrID) && len(nameOrID) == 64 { // reference refuses these as names
		return s.byID(ctx, nameOrID, nameOrID)
	}
	img, err := s.byName(ctx, nameOrID)
	if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		return img, err
	}
	if isHex(nameOrID) {
		if found, err := s.byID(ctx, nameOrID, nameOrID); !errdefs.IsNotFound(err) {
			return found, err
		}
	}
	return image.Image{}, err
}

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

// byName finds an image by its name, or by a digest it has under that name.
func (s *Store) byName(ctx context.Context, name string) (image.Image, error) {
	n, err := parseUserName(name)
	if err != nil {
		return image.Image{}, err
	}
	img, err := s.Images.Get(n.String())
	if n.digest == "" || err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	return s.byDigest(ctx, n)
}

// byDigest finds an image of the repository whose target has the digest, or an index with it. The tag that
// may stand beside a digest does not count, as for docker.
func (s *Store) byDigest(ctx context.Context, want imageName) (image.Image, error) {
	all, err := s.Images.All(ctx)
	if err != nil {
		return image.Image{}, err
	}
	for _, img := range all {
		named, err := parseName(img.Name)
		if err != nil || named.repository != want.repository {
			continue
		}
		if img.Target.Digest == want.digest {
			return img, nil
		}
		children, err := content.Children(ctx, s.Content, img.Target)
		if err != nil && !gone(err) {
			return image.Image{}, err
		}
		i := slices.IndexFunc(children, func(d ocispec.Descriptor) bool { return d.Digest == want.digest })
		if i >= 0 && content.IsIndex(img.Target.MediaType) {
			img.Target = children[i]
			return img, nil
		}
	}
	return image.Image{}, fmt.Errorf("image %s: %w", want, errdefs.ErrNotFound)
}

// byID finds an image by the first hex digits of its ID, the digest of the config, or of its target. Targets with one
// ID, such as a manifest and an index of it, or its layers compressed in two ways, are the same image.
func (s *Store) byID(ctx context.Context, prefix, what string) (image.Image, error) {
	all, err := s.Images.All(ctx)
	if err != nil {
		return image.Image{}, err
	}
	var found image.Image
	ids := map[digest.Digest]bool{}
	for _, img := range all {
		id, err := s.ImageID(ctx, img.Target)
		if gone(err) {
			id = img.Target.Digest
		} else if err != nil {
			return image.Image{}, err
		}
		if !strings.HasPrefix(id.Encoded(), prefix) && !strings.HasPrefix(img.Target.Digest.Encoded(), prefix) {
			continue
		}
		if len(ids) == 0 {
			found = img
		}
		ids[id] = true
	}
	switch len(ids) {
	case 0:
		return image.Image{}, fmt.Errorf("image %s: %w", what, errdefs.ErrNotFound)
	case 1:
		return found, nil
	}
	return image.Image{}, fmt.Errorf("image %s: %d images have an ID that begins so: %w", what, len(ids), errdefs.ErrInvalidArgument)
}

// ImageID returns the ID of the image a target stands for on this machine: the digest of its config.
func (s *Store) ImageID(ctx context.Context, target ocispec.Descriptor) (digest.Digest, error) {
	img, err := s.Resolve(ctx, target)
	return img.Manifest.Config.Digest, err
}

// Resolve returns the image a target stands for: the one for this machine, or else the first that is here.
func (s *Store) Resolve(ctx context.Context, target ocispec.Descriptor) (content.Image, error) {
	img, err := content.Resolve(ctx, s.Content, target, content.Host())
	if err == nil || !errdefs.IsNotFound(err) || !content.IsIndex(target.MediaType) {
		return img, err
	}
	children, childrenErr := content.Children(ctx, s.Content, target)
	if childrenErr != nil {
		return img, err
	}
	for _, d := range children {
		if content.IsAttestation(d) || !content.IsManifest(d.MediaType) {
			continue
		}
		if other, err := content.Resolve(ctx, s.Content, d, content.Host()); err == nil {
			return other, nil
		}
	}
	return img, err
}
